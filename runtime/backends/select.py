"""Chooses the backend and the variant; a named backend is that one or an error, never a silent other."""

from __future__ import annotations

from runtime.backends.base import Backend
from runtime.backends.onnxruntime import OnnxRuntimeBackend
from runtime.bundle import Bundle
from runtime.errors import BackendError

BACKENDS = ("auto", "cuda", "cpu")
PRECISIONS = ("auto", "fp32")


def open_backend(bundle: Bundle, backend: str = "auto", precision: str = "auto") -> Backend:
    """Load a variant of `bundle`; "auto" takes CUDA where it really runs, else the CPU.

    Raises BackendError where the backend is not available here, BundleError where the variant is missing or damaged.
    """
    variant = bundle.variant("fp32" if precision == "auto" else precision)
    path = bundle.verified_path(variant)
    if backend != "auto":
        return OnnxRuntimeBackend(path, bundle.manifest.image, backend)
    try:
        return OnnxRuntimeBackend(path, bundle.manifest.image, "cuda")
    except BackendError:
        return OnnxRuntimeBackend(path, bundle.manifest.image, "cpu")
