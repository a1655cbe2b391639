"""Chooses the backend and the variant; a named backend is that one or an error, never a silent other."""

from __future__ import annotations

from pathlib import Path

from runtime.backends.base import Backend
from runtime.backends.onnxruntime import OnnxRuntimeBackend, has_provider
from runtime.bundle import Bundle
from runtime.errors import BackendError
from runtime.schema import ImageSpec, Variant

BACKENDS = ("auto", "cuda", "cpu")


def choose_variant(bundle: Bundle, precision: str) -> Variant:
    """Return the variant of that precision, fp32 for "auto"; raise BundleError where the bundle has none."""
    return bundle.variant("fp32" if precision == "auto" else precision)


def open_backend(bundle: Bundle, backend: str, variant: Variant) -> Backend:
    """Load a variant of `bundle`; "auto" takes CUDA where it really runs, else the CPU, and says why.

    Raises BackendError where the backend is not available here, BundleError where the file is missing or damaged.
    """
    path = bundle.verified_path(variant)
    if backend == "auto":
        return _open_best(path, bundle.manifest.image)
    return OnnxRuntimeBackend(path, bundle.manifest.image, backend)


def _open_best(model: Path, image: ImageSpec) -> Backend:
    if not has_provider("cuda"):
        return OnnxRuntimeBackend(model, image, "cpu")
    try:
        return OnnxRuntimeBackend(model, image, "cuda")
    except BackendError as error:
        backend = OnnxRuntimeBackend(model, image, "cpu")
        backend.description += f" (not on CUDA: {error})"
        return backend
