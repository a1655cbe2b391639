"""The options by which a command line chooses the model and how it runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from runtime.backends.select import BACKENDS
from runtime.bundle import DEFAULT_BUNDLE
from runtime.classifier import DEFAULT_BATCH_SIZE, ClassifierOptions
from runtime.command_line import batch_size, probability
from runtime.schema import PRECISIONS


def add_classifier_arguments(parser: argparse.ArgumentParser) -> None:
    """Let a command line name a bundle, a backend, a precision, a batch size and a threshold."""
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE, help="default: the model of the package")
    parser.add_argument("--backend", choices=BACKENDS, default="auto")
    parser.add_argument("--precision", choices=("auto", *PRECISIONS), default="auto")
    parser.add_argument("--batch-size", type=batch_size, default=DEFAULT_BATCH_SIZE, metavar="N")
    parser.add_argument(
        "--threshold", type=probability, metavar="T", help="ALL from this p_all on; default: the bundle's"
    )
    parser.add_argument(
        "--unproved", action="store_true", help="use a variant even if it failed against the Keras model"
    )


def classifier_options(options: argparse.Namespace, *, audit: bool) -> ClassifierOptions:
    """Take from the command line what the classifier needs; with `audit` its rows say what judged which image."""
    return ClassifierOptions(
        bundle=options.bundle,
        backend=options.backend,
        precision=options.precision,
        batch_size=options.batch_size,
        threshold=options.threshold,
        unproved=options.unproved,
        audit=audit,
    )
