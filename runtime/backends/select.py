"""Chooses the backend and the variant; a named backend is used or is an error, never silently replaced."""

from __future__ import annotations

from runtime.backends.base import Backend
from runtime.backends.engine_files import built_engines
from runtime.backends.onnxruntime import OnnxRuntimeBackend, has_provider
from runtime.backends.openvino import OpenVinoBackend
from runtime.backends.tensorrt import open_engine
from runtime.bundle import Bundle
from runtime.errors import BackendError
from runtime.schema import ENGINE_PRECISIONS, Variant

BACKENDS = ("auto", "tensorrt", "cuda", "openvino", "cpu")
OF_A_CPU = ("fp32", "fp16", "int8_cpu", "int8")
NEAREST = "the proved one nearest to the Keras model"
# What a backend takes, and where a user names no precision the first of these that is proved. On a GPU fp16 is the
# fastest; on a CPU it is no faster than fp32, and the int8 ones are faster but further from the Keras model, so they
# have to be asked for.
PREFERENCES = {
    "tensorrt": ("fp16", "int8", "fp32"),
    "cuda": ("fp16", "fp32", "int8"),
    "openvino": OF_A_CPU,
    "cpu": OF_A_CPU,
}
WHAT_AUTO_TAKES = {
    "tensorrt": "the fastest that is proved and built",
    "cuda": "the fastest that is proved",
    "openvino": NEAREST,
    "cpu": NEAREST,
}


def open_model(bundle: Bundle, backend: str, precision: str, threads: int | None = None) -> tuple[Backend, Variant]:
    """Load the variant of that precision for that backend, with so many threads on the CPU; return both.

    A backend "auto" is the first that really runs here: TensorRT where the bundle has an engine for this GPU, CUDA, the
    CPU; its description says why one before it was not taken. OpenVINO has to be asked for: a bundle's proofs were made
    with ONNX Runtime, and int8 differs from library to library. A precision "auto" is the one that is best for the
    backend among those that are proved, and for TensorRT among those that were built.

    Raises BackendError where the backend is not available here or does not take the precision, BundleError where the
    bundle has no such variant.
    """
    if backend != "auto":
        variant = best_variant(bundle, backend, precision)
        return open_backend(bundle, backend, variant, threads), variant
    why_not = ""
    for name in _worth_a_try(bundle, precision):
        variant = best_variant(bundle, name, precision)
        try:
            return open_backend(bundle, name, variant, threads), variant
        except BackendError as error:
            why_not += f" (not on {name}: {error})"
    variant = best_variant(bundle, "cpu", precision)
    try:
        opened = open_backend(bundle, "cpu", variant, threads)
    except BackendError as error:
        raise BackendError(f"{error}{why_not}") from error
    opened.description += why_not
    return opened, variant


def best_variant(bundle: Bundle, backend: str, precision: str) -> Variant:
    """Return the variant of that precision; for "auto" the best for the backend, a proved one where there is any.

    Raises BackendError where the backend does not take that precision, BundleError where the bundle has none of it.
    """
    taken = PREFERENCES[backend]
    if precision != "auto":
        if precision not in taken:
            raise BackendError(
                f"expected {', '.join(taken)} for {backend}, received {precision}, which is for a CPU alone; choose "
                "one of them, or --backend cpu"
            )
        return bundle.variant(precision)
    held = [variant for variant in bundle.manifest.variants if variant.precision in taken]
    ranked = sorted(held, key=lambda variant: taken.index(variant.precision))
    proved = [variant for variant in ranked if variant.proof.passed] or ranked
    if backend == "tensorrt":
        proved = [variant for variant in proved if built_engines(bundle.folder, variant.precision)] or proved
    return proved[0]


def open_backend(bundle: Bundle, backend: str, variant: Variant, threads: int | None = None) -> Backend:
    """Load a variant of `bundle` for the backend of that name, with so many threads on the CPU; None: one for each.

    Raises BackendError where the backend is not available here.
    """
    image = bundle.manifest.image
    if backend == "tensorrt":
        return open_engine(bundle.folder, variant.precision, image, variant.sha256)
    if backend == "openvino":
        return OpenVinoBackend(bundle.path(variant), image, threads)
    return OnnxRuntimeBackend(bundle.path(variant), image, backend, threads)


def _worth_a_try(bundle: Bundle, precision: str) -> list[str]:
    """Return the backends before the CPU that this machine and this bundle may have, and that take the precision."""
    if precision not in ("auto", *ENGINE_PRECISIONS):
        return []
    has_engine = bool(built_engines(bundle.folder, best_variant(bundle, "tensorrt", precision).precision))
    return ["tensorrt"] * has_engine + ["cuda"] * has_provider("cuda")
