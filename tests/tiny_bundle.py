"""A bundle small enough to build engines of in every test: 12 px cells, one convolution, the usual contract."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.backends.onnxruntime import EXACT_INT8
from runtime.bundle import DEFAULT_BUNDLE, Bundle
from runtime.files import sha256_of_file
from runtime.schema import (
    CARD_NAME,
    GOLDEN_NAME,
    MANIFEST_NAME,
    TOLERANCES,
    Appearance,
    ImageSpec,
    Manifest,
    Range,
    TypicalCells,
    Variant,
    manifest_from_json,
    to_json,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE = 12
CHANNELS = 8
OPSET = 17
ANYTHING = Range(0.0, 1e9)
ANY_CELL = TypicalCells(cells=1, subjects=None, **{field.name: ANYTHING for field in fields(Appearance)})


def some_cells(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return cells that get different answers: some bright, some dark."""
    random = np.random.default_rng(seed)
    noise = random.integers(0, 64, (count, SIZE, SIZE, 3))
    return (noise + random.integers(0, 192, (count, 1, 1, 3))).astype(np.uint8)


def onnx_answers(model: Path, cells: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return p_all of an ONNX file as ONNX Runtime computes it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(*EXACT_INT8)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    p_all: NDArray[np.float32] = session.run(["p_all"], {"cells": cells})[0]
    return p_all


def write_tiny_bundle(folder: Path, precisions: tuple[str, ...] = ("fp32", "fp16", "int8"), seed: int = 0) -> Path:
    """Write a bundle with those variants; another seed gives other weights."""
    folder.mkdir(parents=True)
    for precision in precisions:
        write_onnx(folder / f"model.{precision}.onnx", precision, seed)
    cells = some_cells(6)
    answers = {precision: onnx_answers(folder / f"model.{precision}.onnx", cells) for precision in precisions}
    golden: dict[str, Any] = {"cells": cells, "keras": answers[precisions[0]], **answers}
    np.savez(folder / GOLDEN_NAME, **golden)
    (folder / CARD_NAME).write_text("A tiny bundle.\n", encoding="utf-8")
    manifest = Bundle.open(DEFAULT_BUNDLE).manifest
    variants = tuple(_variant(folder / f"model.{precision}.onnx", manifest.variants[0]) for precision in precisions)
    manifest = replace(
        manifest,
        image=ImageSpec(SIZE, SIZE),
        golden_sha256=sha256_of_file(folder / GOLDEN_NAME),
        card_sha256=sha256_of_file(folder / CARD_NAME),
        typical=ANY_CELL,
        curve=(),
        variants=variants,
    )
    (folder / MANIFEST_NAME).write_text(to_json(manifest), encoding="utf-8")
    return folder


def manifest_of(bundle: Path) -> Manifest:
    """Read a bundle's manifest, whatever its files are."""
    return manifest_from_json((bundle / MANIFEST_NAME).read_text(encoding="utf-8"), MANIFEST_NAME)


def record_hashes(bundle: Path) -> None:
    """Write into the manifest the hashes of the files as they are."""
    manifest = manifest_of(bundle)
    variants = tuple(replace(variant, sha256=sha256_of_file(bundle / variant.file)) for variant in manifest.variants)
    manifest = replace(
        manifest,
        variants=variants,
        golden_sha256=sha256_of_file(bundle / GOLDEN_NAME),
        card_sha256=sha256_of_file(bundle / CARD_NAME),
    )
    (bundle / MANIFEST_NAME).write_text(to_json(manifest), encoding="utf-8")


def move_golden_answers(bundle: Path, precision: str, distance: float) -> None:
    """Change what a variant is recorded to have said of the golden cells."""
    put_golden_answers(bundle, precision, Bundle.open(bundle).golden().p_all[precision] + np.float32(distance))


def put_golden_answers(bundle: Path, precision: str, p_all: NDArray[np.float32]) -> None:
    """Record that a variant said this of the golden cells."""
    golden = Bundle.open(bundle).golden()
    answers: dict[str, Any] = {**golden.p_all, precision: p_all}
    np.savez(bundle / GOLDEN_NAME, cells=golden.cells, **answers)
    record_hashes(bundle)


def fail_proof(bundle: Path, precision: str) -> None:
    """Record that a variant was found to decide otherwise than the Keras model."""
    manifest = manifest_of(bundle)
    variants = tuple(
        replace(variant, proof=replace(variant.proof, failures=("1 cell of 10 flips",)))
        if variant.precision == precision
        else variant
        for variant in manifest.variants
    )
    (bundle / MANIFEST_NAME).write_text(to_json(replace(manifest, variants=variants)), encoding="utf-8")


def _variant(file: Path, like: Variant) -> Variant:
    precision = file.name.split(".")[1]
    proof = replace(like.proof, tolerance=TOLERANCES[precision])
    return replace(like, precision=precision, file=file.name, sha256=sha256_of_file(file), proof=proof)


def write_onnx(path: Path, precision: str, seed: int = 0, *, extra: str = "") -> None:
    """Write the graph: uint8 cells, cast and standardized in float32, one convolution, p_all in float32.

    `extra` names an operator put before the last layer, such as one that TensorRT does not know.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(seed)
    kernel = random.normal(0, 0.3, (CHANNELS, 3, 3, 3)).astype(np.float32)
    head = random.normal(0, 1.0, (1, CHANNELS)).astype(np.float32)
    narrow: Any = np.float16 if precision == "fp16" else np.float32
    weights = {
        "mean": np.full((1, 1, 1, 3), 110, np.float32),
        "std": np.full((1, 1, 1, 3), 60, np.float32),
        "kernel": kernel.astype(narrow),
        "head": head.astype(narrow),
        "axis": np.array([1], np.int64),
    }
    steps: list[tuple[str, list[str], dict[str, Any]]] = [
        ("Cast", ["cells"], {"to": TensorProto.FLOAT}),
        ("Sub", ["", "mean"], {}),
        ("Div", ["", "std"], {}),
        ("Transpose", [""], {"perm": [0, 3, 1, 2]}),
    ]
    if precision == "fp16":
        steps.append(("Cast", [""], {"to": TensorProto.FLOAT16}))
    if precision == "int8":
        weights |= {"scale": np.array(0.03, np.float32), "zero": np.array(0, np.int8)}
        weights["kernel"] = np.clip(np.round(kernel / 0.03), -127, 127).astype(np.int8)
        steps += [("QuantizeLinear", ["", "scale", "zero"], {}), ("DequantizeLinear", ["", "scale", "zero"], {})]
    steps += [
        ("Conv", ["", "kernel_float" if precision == "int8" else "kernel"], {}),
        ("Relu", [""], {}),
        ("GlobalAveragePool", [""], {}),
    ]
    steps += [(extra, [""], {})] if extra else []
    steps += [("Flatten", [""], {}), ("Gemm", ["", "head"], {"transB": 1})]
    if precision == "fp16":
        steps.append(("Cast", [""], {"to": TensorProto.FLOAT}))
    steps += [("Sigmoid", [""], {}), ("Squeeze", ["", "axis"], {})]
    nodes, last = [], ""
    if precision == "int8":
        nodes.append(
            helper.make_node("DequantizeLinear", ["kernel", "scale", "zero"], ["kernel_float"], name="weights")
        )
    for place, (operator, inputs, attributes) in enumerate(steps):
        output = "p_all" if place == len(steps) - 1 else f"{operator}_{place}_out"
        given = [name or last for name in inputs]
        nodes.append(helper.make_node(operator, given, [output], name=f"{operator}_{place}", **attributes))
        last = output
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("cells", TensorProto.UINT8, ["N", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("p_all", TensorProto.FLOAT, ["N"])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.save(model, path)
