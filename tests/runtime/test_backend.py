from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.backends import select
from runtime.backends.base import Backend
from runtime.backends.onnxruntime import OnnxRuntimeBackend
from runtime.backends.select import PREFERENCES, best_variant, open_model
from runtime.bundle import DEFAULT_BUNDLE, Bundle
from runtime.classifier import Classifier, ClassifierOptions
from runtime.errors import BackendError
from runtime.schema import ImageSpec
from tests.overflowing_graph import P_ALL_OF_WHITE, SIZE, WHITE, write_overflowing_onnx
from tests.runtime.fake_backend import BrightnessBackend


def open_default(backend: str) -> Backend:
    return open_model(Bundle.open(DEFAULT_BUNDLE), backend, "fp32")[0]


@pytest.fixture(params=["fake", "cpu"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Every backend that can run here."""
    if request.param == "fake":
        return BrightnessBackend()
    return open_default(request.param)


def cells(backend: Backend, count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    height, width, channels = backend._cell_shape
    return np.random.default_rng(0).integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def test_any_number_of_cells_gives_as_many_probabilities(backend: Backend) -> None:
    for count in (1, 2, 7):
        p_all = backend.infer(cells(backend, count))
        assert p_all.dtype == np.float32
        assert p_all.shape == (count,)
        assert ((p_all >= 0) & (p_all <= 1)).all()


def test_a_cells_answer_does_not_depend_on_its_batch(backend: Backend) -> None:
    batch = cells(backend, 7)
    alone = np.concatenate([backend.infer(cell[None]) for cell in batch])
    np.testing.assert_allclose(backend.infer(batch), alone, atol=1e-5)


def test_a_batch_is_computed_in_parts_only_where_nothing_else_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[int] = []
    compute = OnnxRuntimeBackend._infer

    def infer(self: OnnxRuntimeBackend, cells: Any) -> Any:
        parts.append(len(cells))
        return compute(self, cells)

    monkeypatch.setattr(OnnxRuntimeBackend, "_infer", infer)
    bundle = Bundle.open(DEFAULT_BUNDLE)
    with open_model(bundle, "cpu", "fp32", threads=3)[0] as backend:
        batch = cells(backend, 13)
        alone = backend.infer(batch)
        assert sorted(parts) == [4, 4, 5]
        np.testing.assert_allclose(backend.infer(batch, beside_others=True), alone, atol=1e-6)
        assert parts[3:] == [13]


def test_a_wrong_input_is_refused_with_what_was_expected(backend: Backend) -> None:
    right = cells(backend, 2)
    wrong_inputs: list[Any] = [right.astype(np.float32), right[:, :-1], right[..., :1], right[0], right[:0]]
    for wrong in wrong_inputs:
        with pytest.raises(BackendError, match=r"expected uint8 cells of shape \[N, .*, 3\] with N >= 1, received"):
            backend.infer(wrong)


@pytest.mark.parametrize("activation", [np.uint8, np.int8])
def test_int8_sums_are_exact_on_a_cpu_without_vnni_too(tmp_path: Path, activation: Any) -> None:
    model = write_overflowing_onnx(tmp_path / "model.onnx", activation)
    with OnnxRuntimeBackend(model, ImageSpec(SIZE, SIZE), "cpu") as backend:
        assert backend.infer(WHITE) == pytest.approx(P_ALL_OF_WHITE, abs=1e-5)


def test_values_that_are_not_finite_are_never_answers() -> None:
    broken = BrightnessBackend(scale=float("nan"))
    with pytest.raises(BackendError, match="found values that are not finite"):
        broken.infer(cells(broken, 1))


def test_a_named_backend_that_is_not_there_is_an_error_and_no_silent_cpu_run() -> None:
    with pytest.raises(
        BackendError, match=r"expected the provider CUDAExecutionProvider .*onnxruntime-gpu\[cuda,cudnn\]"
    ):
        open_default("cuda")


def test_auto_says_what_it_took() -> None:
    backend = open_default("auto")
    assert backend.name == "cpu"
    assert "CPUExecutionProvider" in backend.description


@pytest.mark.parametrize(("precision", "said"), [("auto", True), ("fp32", False)])
def test_a_precision_that_nobody_named_is_said_with_its_reason(precision: str, said: bool) -> None:
    with Classifier(ClassifierOptions(precision=precision)) as classifier:
        reason = "; --precision auto takes the proved one nearest to the Keras model"
        assert classifier.description.endswith(reason) is said


def test_auto_says_why_it_is_not_on_cuda_where_that_was_to_be_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    backend = open_default("auto")
    assert backend.name == "cpu"
    assert "(not on cuda: " in backend.description


def test_a_session_that_falls_back_to_the_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    real = onnxruntime.InferenceSession
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, options, **_: real(path, options, providers=["CPUExecutionProvider"]),
    )
    with pytest.raises(BackendError, match="expected a session on CUDAExecutionProvider, ONNX Runtime fell back to"):
        open_default("cuda")


def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for name, package in (("auto", "onnxruntime"), ("cpu", "onnxruntime"), ("cuda", ".onnxruntime-gpu")):
        with pytest.raises(BackendError, match=f"pip install {package}"):
            open_default(name)


def test_a_graph_of_another_size_is_refused() -> None:
    bundle = Bundle.open(DEFAULT_BUNDLE)
    with pytest.raises(BackendError, match=r"expected the graph .* to take .* and to give"):
        OnnxRuntimeBackend(bundle.path(bundle.variant("fp32")), ImageSpec(width=99, height=99), "cpu")


def test_a_precision_that_is_not_named_is_the_best_proved_one_for_the_backend(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    assert [best_variant(bundle, name, "auto").precision for name in PREFERENCES] == ["fp16", "fp16", "fp32", "fp32"]
    assert best_variant(bundle, "cuda", "int8").precision == "int8"


def holding(bundle: Bundle, precision: str) -> Bundle:
    """The bundle, whose int8 variant is called otherwise."""
    variants = tuple(
        replace(variant, precision=precision) if variant.precision == "int8" else variant
        for variant in bundle.manifest.variants
    )
    return replace(bundle, manifest=replace(bundle.manifest, variants=variants))


def test_a_variant_for_a_cpu_alone_is_refused_elsewhere_and_never_chosen_there(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = holding(Bundle.open(tiny_bundle), "int8_cpu")
    for name in ("tensorrt", "cuda"):
        assert best_variant(bundle, name, "auto").precision == "fp16"
        with pytest.raises(BackendError, match=f"expected .* for {name}, received int8_cpu, which is for a CPU alone"):
            best_variant(bundle, name, "int8_cpu")
    monkeypatch.setattr(select, "has_provider", lambda _: True)  # there seems to be a GPU
    backend, variant = open_model(bundle, "auto", "int8_cpu")
    with backend:
        assert (backend.name, variant.precision) == ("cpu", "int8_cpu")
        assert "not on" not in backend.description


def test_a_variant_that_failed_is_not_chosen_where_another_passed(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    failed = tuple(
        replace(variant, proof=replace(variant.proof, failures=("it differs",) * (variant.precision != "int8")))
        for variant in bundle.manifest.variants
    )
    for kept, expected in ((failed, "int8"), (failed[:1], "fp32")):
        some = replace(bundle, manifest=replace(bundle.manifest, variants=kept))
        assert best_variant(some, "cpu", "auto").precision == expected, (
            "refused later, with the reason, where none passed"
        )
