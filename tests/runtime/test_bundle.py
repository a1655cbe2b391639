from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.bundle import DEFAULT_BUNDLE, Bundle
from runtime.classifier import Classifier, ClassifierOptions
from runtime.errors import AllnetError, BackendError, BundleError
from runtime.files import sha256_of_file
from runtime.schema import SEAL, Manifest, manifest_from_json, seal_of, to_json


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the default bundle to damage."""
    shutil.copytree(DEFAULT_BUNDLE, tmp_path / "bundle")
    return tmp_path / "bundle"


def edit(folder: Path, change: Callable[[dict[str, Any]], object], *, sealed: bool = True) -> None:
    path = folder / "bundle.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    if sealed:
        manifest.pop(SEAL, None)
        manifest[SEAL] = seal_of(manifest)
    path.write_text(json.dumps(manifest))


def test_a_manifest_survives_being_written_and_read() -> None:
    manifest = Bundle.open(DEFAULT_BUNDLE).manifest
    assert isinstance(manifest, Manifest)
    assert manifest_from_json(to_json(manifest), "bundle.json") == manifest


EDITS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "missing key": (lambda m: m.pop("decision"), r"missing \['decision'\]"),
    "unknown key": (
        lambda m: m["decision"].update(treshold=0.4),
        r"at the manifest\.decision, .*unknown \['treshold'\]",
    ),
    "nested key": (lambda m: m["image"].pop("resize"), r"at the manifest\.image, missing \['resize'\]"),
    "wrong type": (
        lambda m: m["decision"].update(threshold="0.5"),
        r"expected float at the manifest\.decision\.threshold",
    ),
    "truth for number": (lambda m: m["image"].update(width=True), r"expected int at the manifest\.image\.width"),
    "swapped classes": (lambda m: m["classes"].reverse(), r"expected the classes \['healthy', 'ALL'\]"),
    "newer version": (lambda m: m.update(schema_version=99), "found 99: a newer version of this toolkit wrote it"),
    "older version": (
        lambda m: m.update(schema_version=1),
        r"expected /.*/bundle\.json of schema_version \d+, found 1: an older version .* wrote it; export .* again",
    ),
    "no version": (lambda m: m.pop("schema_version"), r"expected schema_version \d+, found None"),
    "truth for version": (lambda m: m.update(schema_version=True), r"expected schema_version \d+, found True"),
    "other resize": (lambda m: m["image"].update(resize="opencv-area"), "expected the image preparation"),
    "threshold above 1": (
        lambda m: m["decision"].update(threshold=50.0),
        "expected a threshold from 0 to 1 .* found 50",
    ),
    "band beside the threshold": (lambda m: m["decision"].update(review_low=0.9), "a review band round it"),
    "another network": (
        lambda m: m["training"]["config"]["options"].update(model="../../elsewhere"),
        r"expected a network of allnet, .*, found '\.\./\.\./elsewhere'",
    ),
    "no variant": (lambda m: m["variants"].clear(), r"expected precisions of fp32, fp16, int8, .* found \[\]"),
    "a variant twice": (
        lambda m: m["variants"].append(m["variants"][0]),
        r"each once at most, found \['fp32', .*'fp32'\]",
    ),
    "an infinite temperature": (
        lambda m: m["decision"].update(temperature=float("inf")),
        r"expected float at the manifest\.decision\.temperature, found inf",
    ),
    "no temperature": (lambda m: m["decision"].update(temperature=0.0), "expected a temperature above 0"),
}


@pytest.mark.parametrize(("change", "message"), EDITS.values(), ids=EDITS.keys())
def test_a_manifest_that_is_not_exactly_one_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit(folder, change)
    with pytest.raises(BundleError, match=message):
        Bundle.open(folder)


UNSEALED: dict[str, Callable[[dict[str, Any]], object]] = {
    "another threshold": lambda m: m["decision"].update(threshold=0.6),
    "a proof": lambda m: m["variants"][0]["proof"].update(cells=10_000),
    "no seal": lambda m: m.pop(SEAL),
    "a threshold that cannot be": lambda m: m["decision"].update(threshold=50.0),
    "an unknown key": lambda m: m.update(note="ours"),
}


@pytest.mark.parametrize("change", UNSEALED.values(), ids=UNSEALED.keys())
def test_a_manifest_that_was_changed_by_hand_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    edit(folder, change, sealed=False)
    with pytest.raises(
        BundleError,
        match=r"expected /.*/bundle\.json to match its content_sha256, found other .*--threshold\)",
    ):
        Bundle.open(folder)


def test_a_manifest_may_be_laid_out_otherwise(folder: Path) -> None:
    edit(folder, lambda _: None, sealed=False)
    assert "\n" not in (folder / "bundle.json").read_text()
    Bundle.open(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"bundle"', "[" * 100_000])
def test_a_file_that_is_no_manifest_is_refused(folder: Path, text: str) -> None:
    (folder / "bundle.json").write_text(text)
    with pytest.raises(BundleError, match=r"^/.*/bundle\.json is not one of this version: .*; copy the bundle again"):
        Bundle.open(folder)


def test_a_folder_without_a_manifest_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"expected a bundle with a bundle\.json .*`python -m export onnx`"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize("name", ["model.fp32.onnx", "golden.npz"])
def test_one_changed_byte_is_found(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} to have the SHA-256"):
        Classifier(ClassifierOptions(bundle=folder))


@pytest.mark.parametrize("name", ["model.fp32.onnx", "golden.npz"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"expected the file {name}"):
        Classifier(ClassifierOptions(bundle=folder))


def test_a_file_outside_the_bundle_is_never_opened(folder: Path) -> None:
    (folder.parent / "model.fp32.onnx").write_bytes((folder / "model.fp32.onnx").read_bytes())
    edit(folder, lambda m: m["variants"][0].update(file="../model.fp32.onnx"))
    with pytest.raises(BundleError, match=r"expected the file \.\./model"):
        Classifier(ClassifierOptions(bundle=folder))


def test_a_variant_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(BundleError, match=r"expected a variant of precision bf16 .* found fp32, fp16, int8"):
        Bundle.open(DEFAULT_BUNDLE).variant("bf16")


def test_a_model_that_answers_otherwise_than_keras_did_stops_before_the_first_cell(folder: Path) -> None:
    golden = Bundle.open(folder).golden()
    moved: dict[str, Any] = {name: p_all + np.float32(0.01) for name, p_all in golden.p_all.items()}
    np.savez_compressed(folder / "golden.npz", cells=golden.cells, **moved)
    edit(folder, lambda m: m.update(golden_sha256=sha256_of_file(folder / "golden.npz")))
    with pytest.raises(
        BackendError, match=r"self-test failed: .* p_all differs by 0\.01 .* classified; export the bundle"
    ):
        Classifier(ClassifierOptions(bundle=folder))


@pytest.mark.parametrize("moved", ["fp32", "fp16", "int8", "keras"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_variant_is_held_against_what_it_said_itself(tiny_bundle: Path, precision: str, moved: str) -> None:
    golden = Bundle.open(tiny_bundle).golden()
    answers: dict[str, Any] = golden.p_all | {moved: golden.p_all[moved] + np.float32(0.1)}
    np.savez(tiny_bundle / "golden.npz", cells=golden.cells, **answers)
    edit(tiny_bundle, lambda m: m.update(golden_sha256=sha256_of_file(tiny_bundle / "golden.npz")))
    options = ClassifierOptions(tiny_bundle, backend="cpu", precision=precision)
    if moved == precision:
        with pytest.raises(
            BackendError, match=rf"p_all differs by 0\.1 from what {precision} gave when it was exported"
        ):
            Classifier(options)
    else:
        Classifier(options).close()


GOLDEN_FILES: dict[str, Callable[[Path], object]] = {
    "other names": lambda path: np.savez(path, x=np.zeros(3)),
    "pickled": lambda path: np.savez(path, cells=np.array([{}], dtype=object), keras=np.zeros(1, np.float32)),
    "other shapes": lambda path: np.savez(path, cells=np.zeros((9, 5, 5, 3), np.uint8), keras=np.zeros(4, np.float32)),
    "other types": lambda path: np.savez(path, cells=np.zeros((9, 128, 128, 3)), keras=np.zeros(9, np.float32)),
    "no archive": lambda path: path.write_bytes(b"golden"),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("write", GOLDEN_FILES.values(), ids=GOLDEN_FILES.keys())
def test_a_golden_file_of_another_kind_is_refused_even_with_its_hash(
    folder: Path, write: Callable[[Path], object]
) -> None:
    write(folder / "golden.npz")
    edit(folder, lambda m: m.update(golden_sha256=sha256_of_file(folder / "golden.npz")))
    with pytest.raises(BundleError, match=r"expected golden cells .*; export the bundle again"):
        Classifier(ClassifierOptions(bundle=folder))


def test_every_refusal_is_one_line(folder: Path) -> None:
    (folder / "model.fp32.onnx").write_bytes(b"no model")
    edit(folder, lambda m: m["variants"][0].update(sha256=sha256_of_file(folder / "model.fp32.onnx")))
    with pytest.raises(AllnetError) as refused:
        Classifier(ClassifierOptions(bundle=folder))
    assert "\n" not in str(refused.value)
