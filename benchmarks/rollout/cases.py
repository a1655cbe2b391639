"""What of a bundle is measured: variants on backends, and which of them is to be deployed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from benchmarks.record import Row, skipped
from benchmarks.rollout.options import RolloutOptions
from benchmarks.rollout.record import case_name
from runtime.backends.engine_files import built_engines
from runtime.backends.onnxruntime import has_provider
from runtime.backends.select import PREFERENCES, open_model
from runtime.bundle import Bundle
from runtime.classifier import Classifier, ClassifierOptions
from runtime.schema import PRECISIONS

LARGE_S = 0.05  # compact takes a tenth of it on one core, ALLNet on two five times as much


@dataclass(frozen=True)
class Case:
    """A variant on a backend."""

    backend: str
    precision: str

    @property
    def name(self) -> str:
        """How tables call it, such as "cpu int8"."""
        return case_name(self.columns)

    @property
    def columns(self) -> dict[str, str]:
        """What its rows begin with."""
        return {"backend": self.backend, "precision": self.precision}


def deployed_case(bundle: Bundle, options: RolloutOptions) -> Case:
    """Return what runtime.classify would take with these options.

    Raises BackendError or BundleError where it would refuse them.
    """
    backend, variant = open_model(bundle, options.backend, options.precision)
    with backend:
        return Case(backend.name, variant.precision)


def is_large(bundle: Bundle, options: RolloutOptions) -> bool:
    """Say whether what is to be deployed takes longer than LARGE_S for a cell; raises what `deployed_case` raises."""
    backend, _ = open_model(bundle, options.backend, options.precision)
    with backend:
        image = bundle.manifest.image
        cell = np.zeros((1, image.height, image.width, 3), np.uint8)
        backend.infer(cell)  # to warm up
        began = time.perf_counter()
        backend.infer(cell)
        return time.perf_counter() - began > LARGE_S


def cases_of(bundle: Bundle, options: RolloutOptions, deployed: Case) -> list[Case]:
    """Return the cases to be measured, the most important first, since there may not be time for all.

    The deployed one is first, then its precision on the other backends, then the other precisions of its backend.
    """
    held = [variant.precision for variant in bundle.manifest.variants]
    precisions = options.precisions or sorted(held, key=PRECISIONS.index)
    cases = [
        Case(backend, precision)
        for backend in options.backends or usable_backends(bundle)
        for precision in precisions
        if precision in PREFERENCES[backend]
        and (options.backends or backend != "tensorrt" or built_engines(bundle.folder, precision))
    ]
    return sorted(
        {deployed: None, **dict.fromkeys(cases)},
        key=lambda case: (case.precision != deployed.precision, case.backend != deployed.backend),
    )


def usable_backends(bundle: Bundle) -> Sequence[str]:
    """Return the backends that this machine and this bundle seem to have; opening one may still fail."""
    backends = [name for name in ("cuda", "cpu") if has_provider(name)]
    has_openvino = find_spec("openvino") is not None
    return ["tensorrt"] * bool(built_engines(bundle.folder, "*")) + ["openvino"] * has_openvino + backends


def in_time(cases: Sequence[Case], options: RolloutOptions, rows: list[Row]) -> Iterator[Case]:
    """Yield the deployed case, then the others while the time for cases lasts; each left out is a row of `rows`."""
    deployed, *others = cases
    began = time.perf_counter()
    yield deployed
    for case in others:
        if options.case_seconds is not None and time.perf_counter() - began >= options.case_seconds:
            rows.append(case.columns | skipped(f"the {options.case_seconds:g} s that --quick has for this were over"))
        else:
            yield case


@contextmanager
def opened(options: RolloutOptions, case: Case) -> Iterator[Classifier]:
    """Yield a classifier of a case; one that failed its proof is measured too, and parity says that it failed."""
    settings = ClassifierOptions(
        bundle=options.bundle,
        backend=case.backend,
        precision=case.precision,
        batch_size=options.batch_size,
        unproved=True,
    )
    with Classifier(settings) as classifier:
        yield classifier
