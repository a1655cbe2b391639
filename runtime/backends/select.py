"""Chooses the backend and the variant; a named backend is that one or an error, never a silent other."""

from __future__ import annotations

from pathlib import Path

from runtime.backends.base import Backend
from runtime.backends.onnxruntime import OnnxRuntimeBackend, has_provider
from runtime.backends.tensorrt import TensorRTBackend, built_engines, find_engine
from runtime.bundle import Bundle
from runtime.errors import BackendError
from runtime.schema import ImageSpec, Variant

BACKENDS = ("auto", "tensorrt", "cuda", "cpu")
ENGINE_PREFERENCE = ("fp16", "int8", "fp32")  # of an engine, where a user names no precision


def choose_variant(bundle: Bundle, precision: str) -> Variant:
    """Return the variant of that precision, fp32 for "auto"; raise BundleError where the bundle has none."""
    return bundle.variant("fp32" if precision == "auto" else precision)


def open_model(bundle: Bundle, backend: str, precision: str) -> tuple[Backend, Variant]:
    """Load the variant of that precision for that backend; return both.

    "auto" takes a TensorRT engine of the bundle where one fits this GPU, else what `open_backend` takes, and says why
    an engine that is there was not used. For an engine, a precision "auto" is that of one that was built.

    Raises BackendError where the backend is not available here, BundleError where the file is missing or damaged.
    """
    wanted = _engine_variants(bundle, precision)
    built = [variant for variant in wanted if built_engines(bundle.folder, variant.precision)]
    if backend == "tensorrt":
        variant = (built or wanted)[0]
        return open_backend(bundle, backend, variant), variant
    reason = ""
    if backend == "auto" and built:
        try:
            return open_backend(bundle, "tensorrt", built[0]), built[0]
        except BackendError as error:
            reason = f" (not on TensorRT: {error})"
    variant = choose_variant(bundle, precision)
    opened = open_backend(bundle, backend, variant)
    opened.description += reason
    return opened, variant


def open_backend(bundle: Bundle, backend: str, variant: Variant) -> Backend:
    """Load a variant of `bundle`; "auto" takes CUDA where it really runs, else the CPU, and says why.

    Raises BackendError where the backend is not available here, BundleError where the file is missing or damaged.
    """
    if backend == "tensorrt":
        engine = find_engine(bundle.folder, variant.precision, variant.sha256)
        return TensorRTBackend(engine, bundle.manifest.image, variant.sha256)
    path = bundle.path(variant)
    if backend == "auto":
        return _open_best(path, bundle.manifest.image)
    return OnnxRuntimeBackend(path, bundle.manifest.image, backend)


def _engine_variants(bundle: Bundle, precision: str) -> list[Variant]:
    """Return the variants that an engine of that precision may come from, the preferred first; never none."""
    if precision != "auto":
        return [choose_variant(bundle, precision)]
    variants = [variant for variant in bundle.manifest.variants if variant.proof.passed]
    preferred = [variant for name in ENGINE_PREFERENCE for variant in variants if variant.precision == name]
    return preferred or [choose_variant(bundle, precision)]


def _open_best(model: Path, image: ImageSpec) -> Backend:
    if not has_provider("cuda"):
        return OnnxRuntimeBackend(model, image, "cpu")
    try:
        return OnnxRuntimeBackend(model, image, "cuda")
    except BackendError as error:
        backend = OnnxRuntimeBackend(model, image, "cpu")
        backend.description += f" (not on CUDA: {error})"
        return backend
