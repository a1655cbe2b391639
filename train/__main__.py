"""python -m train: fit | evaluate | draw."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from runtime.command_line import DONE, INTERRUPTED, ArgumentParser, positive_int, quiet_tensorflow, run_command
from runtime.schema import MODELS


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(prog="python -m train", description="Fit and evaluate the networks on labelled cells.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{fit,evaluate,draw}")

    fit = commands.add_parser("fit", help="fit a network and leave a run folder")
    fit.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder of labelled cells, or a .csv table"
    )
    fit.add_argument("--model", choices=MODELS, required=True)
    fit.add_argument("--out", type=Path, required=True, metavar="RUN", help="the run folder to write")
    fit.add_argument(
        "--split", choices=("image",), default="image", help="cells of one subject may be in several parts"
    )
    fit.add_argument(
        "--fractions",
        type=float,
        nargs=3,
        default=(0.6, 0.2, 0.2),
        metavar=("TRAINING", "VALIDATION", "TEST"),
        help="default: 0.6 0.2 0.2",
    )
    fit.add_argument("--epochs", type=positive_int, default=40)
    fit.add_argument("--batch-size", type=positive_int, default=32)
    fit.add_argument("--image-size", type=positive_int, metavar="PX", help="default: 250, for compact 128")
    fit.add_argument(
        "--weights",
        metavar="{imagenet,none,DIR}",
        help="default: imagenet, for compact none; DIR holds *_notop.h5 files",
    )
    fit.add_argument("--seed", type=seed, default=0)
    fit.add_argument("--resume", action="store_true", help="go on after the last finished epoch")
    add_cache(fit)

    evaluate = commands.add_parser("evaluate", help="the five metrics of a run's best model")
    evaluate.add_argument("--run", type=Path, required=True, metavar="RUN")
    evaluate.add_argument("--data", type=Path, required=True, metavar="DIR", help="where the run's cells lie")
    evaluate.add_argument("--split-part", choices=("validation", "test"), default="validation")
    add_cache(evaluate)

    draw = commands.add_parser("draw", help="draw cells like those of C-NMC, for demos, tests and load")
    draw.add_argument("--out", type=Path, required=True, metavar="DIR")
    draw.add_argument("--images", type=positive_int, required=True, metavar="N")
    draw.add_argument("--seed", type=seed, default=0)
    draw.add_argument("--format", choices=("bmp", "png"), default="bmp")
    return parser


def add_cache(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where prepared images are kept."""
    parser.add_argument("--cache", type=Path, metavar="DIR", help="prepared images; default: the user's cache folder")


def seed(text: str) -> int:
    """Parse a whole number from 0 to 2^32 - 1, which every random generator in use accepts."""
    number = int(text)
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to {2**32 - 1}, received {text}")
    return number


def main(arguments: list[str] | None = None) -> int:
    """Run one of the commands; return the exit code."""
    options = build_parser().parse_args(arguments)
    try:
        {"fit": _fit, "evaluate": _evaluate, "draw": _draw}[options.command](options)
    except KeyboardInterrupt:
        hint = "; if an epoch was finished, the same command with --resume goes on after it"
        print(f"interrupted{hint if options.command == 'fit' else ''}", file=sys.stderr)
        return INTERRUPTED
    return DONE


def _fit(options: argparse.Namespace) -> None:
    from runtime.schema import FitOptions
    from train.splits import check_fractions

    check_fractions(options.fractions)
    with quiet_tensorflow():
        from train.fit import fit
        from train.models.network import default_size, default_weights

    fit(
        FitOptions(
            model=options.model,
            data=str(options.data),
            split=options.split,
            fractions=tuple(options.fractions),
            epochs=options.epochs,
            batch_size=options.batch_size,
            image_size=options.image_size or default_size(options.model),
            weights=options.weights or default_weights(options.model),
            seed=options.seed,
        ),
        options.out,
        resume=options.resume,
        cache=options.cache,
    )
    print(f"Next: python -m export onnx --run {options.out} --out BUNDLE")


def _evaluate(options: argparse.Namespace) -> None:
    with quiet_tensorflow():
        from train.evaluate import evaluate

    evaluate(options.run, options.data, options.split_part, cache=options.cache)


def _draw(options: argparse.Namespace) -> None:
    from train.drawn_cells import draw_cells

    draw_cells(options.out, options.images, seed=options.seed, suffix=f".{options.format}")
    print(f"{options.images} drawn cells, no photographs, in {options.out}")
    print(f"Next: python -m train fit --data {options.out} --model compact --out RUN")


if __name__ == "__main__":
    run_command(main)
