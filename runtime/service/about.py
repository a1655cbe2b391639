"""What /about says: which model answers, how it decides, what a request may hold; and whether a client has seen it."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import PurePath
from typing import Any

from starlette.requests import Request

import runtime
from runtime.classifier import Classifier
from runtime.explanation import method_of
from runtime.service.limits import Limits
from runtime.service.problems import RequestError
from runtime.shift import ShiftRule

NOTICE = "For research, not a diagnosis. Nothing here has been approved as a medical device."


def about(classifier: Classifier, limits: Limits, *, watches: bool = False) -> dict[str, Any]:
    """Describe the service as JSON."""
    manifest = classifier.manifest
    return {
        "version": runtime.__version__,
        "notice": NOTICE,
        "model": manifest.training.config.options.model,
        "served_name": classifier.bundle.served_name(classifier.precision),
        "precision": classifier.precision,
        "backend": classifier.backend.description,
        "description": classifier.description,
        "bundle": classifier.bundle.content_sha256,
        "identity": answerer_identity(classifier),
        "classes": list(manifest.classes),
        "threshold": classifier.threshold,
        "bundle_threshold": manifest.decision.threshold,
        "review_band": list(classifier.review_band),
        "bundle_review_band": [manifest.decision.review_low, manifest.decision.review_high],
        "image": {"width": manifest.image.width, "height": manifest.image.height},
        "limits": {
            "file_bytes": limits.file_bytes,
            "request_files": limits.request_files,
            "request_bytes": limits.request_bytes,
        },
        "training": _training(classifier),
        "shift": asdict(ShiftRule.of(subjects)) if (subjects := manifest.typical.subjects) else None,
        "curve": [asdict(point) for point in manifest.curve],  # on the cells that the bundle was proved on
        "explain": method_of(classifier.backend),
        "watch": watches,
    }


def answerer_identity(classifier: Classifier) -> str:
    """Return a text that stays the same as long as answers do: another model or threshold has another."""
    answers = (
        runtime.__version__,
        classifier.bundle.content_sha256,
        classifier.precision,
        classifier.backend.description,
        classifier.threshold,
    )
    return hashlib.sha256(repr(answers).encode()).hexdigest()[:16]


def check_identity(request: Request, classifier: Classifier) -> None:
    """Raise RequestError where the client, such as a page left open, was told of another model or threshold."""
    wanted = request.headers.get("if-match", "*")
    if wanted not in ("*", f'"{answerer_identity(classifier)}"'):
        raise RequestError(
            412,
            "expected the model and threshold that /about gave, found that the service has restarted with others; "
            "load the page, or /about, again",
        )


def _training(classifier: Classifier) -> dict[str, Any]:
    training = classifier.manifest.training
    options = training.config.options
    return {
        "data": PurePath(options.data).name,
        "split": options.split.kind,
        "part_sizes": training.config.part_sizes,
        "unseen_subjects": training.config.unseen_subjects,
        "best_epoch": training.best_epoch,
        "parameters": training.config.parameters,
        "validation": asdict(training.validation),
    }
