from __future__ import annotations

import csv
import errno
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import export.fewest_cells
import export.verify
from export.__main__ import main
from export.activations import largest_activations
from export.arguments import tolerance
from export.fewest_cells import too_few_to_prove
from export.fp16 import write_fp16
from export.gate import judge_all
from export.int8 import exact_answers, write_int8
from export.model_card import FILES_HEADING, model_card
from export.scoring import BATCH_SIZE, Scores
from export.seen import Seen
from export.verify import Verification
from runtime.bundle import Bundle
from runtime.classifier import Classifier, ClassifierOptions
from runtime.command_line import run_command
from runtime.demo import DEMO_CELLS, demo_cells
from runtime.errors import BundleError, DataError, OutputError, UsageError
from runtime.files import sha256_of_file
from runtime.preprocessing import load_cell
from runtime.schema import (
    CARD_NAME,
    GOLDEN_NAME,
    MANIFEST_NAME,
    SIGNATURE_NAME,
    TOLERANCES,
    ImageSpec,
    Manifest,
    Proof,
    to_json,
)
from tests.forbidden_file import forbid
from tests.small_network import SIZE, averaging, brightness_network, saved, small_network
from tests.tiny_bundle import manifest_of, onnx_answers, record_hashes, write_tiny_bundle
from train.dataset import find_cells
from train.placed_cells import PlacedCell, write_cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

PRECISIONS = ("fp32", "fp16", "int8")
CELLS = np.stack([load_cell(path, ImageSpec(SIZE, SIZE)) for path in demo_cells()])


def write_manifest(bundle: Path, manifest: Manifest) -> None:
    (bundle / MANIFEST_NAME).write_text(to_json(manifest), encoding="utf-8")


def refresh(bundle: Path) -> None:
    """Record the files of a bundle as they are, with their hashes and golden answers."""
    golden: dict[str, Any] = {
        variant.precision: onnx_answers(bundle / variant.file, CELLS) for variant in manifest_of(bundle).variants
    }
    np.savez(bundle / GOLDEN_NAME, cells=CELLS, keras=golden["fp32"], **golden)
    record_hashes(bundle)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the small network in all precisions, and beside it a run whose Keras file is a stand-in."""
    folder = tmp_path_factory.mktemp("converted")
    bundle = write_tiny_bundle(folder / "bundle")
    fp32 = saved(brightness_network(), bundle / "model.fp32.onnx")
    peaks = largest_activations(fp32, CELLS)
    write_fp16(fp32, bundle / "model.fp16.onnx", peaks)
    write_int8(fp32, bundle / "model.int8.onnx", exact_answers(fp32, CELLS), peaks)
    shutil.copy(fp32, folder / "reference.onnx")
    (folder / "run").mkdir()
    (folder / "run" / "best.keras").write_bytes(b"weights")
    placed = [
        PlacedCell(str(cell.path), cell.label, "", "", "training" if index < 2 else "validation", cell.sha256)
        for index, cell in enumerate(find_cells(DEMO_CELLS))
    ]
    write_cells(folder / "run" / "cells.csv", placed)
    manifest = manifest_of(bundle)
    training = replace(manifest.training, run="run", keras_sha256=sha256_of_file(folder / "run" / "best.keras"))
    write_manifest(bundle, replace(manifest, training=training))
    (bundle / CARD_NAME).write_text(model_card(manifest_of(bundle), "drawn cells"), encoding="utf-8")
    refresh(bundle)
    return folder


@pytest.fixture
def bundle(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to write into; in the place of Keras stands the graph that it was converted to."""
    shutil.copytree(converted, tmp_path, dirs_exist_ok=True)
    manifest = Bundle.open(tmp_path / "bundle").manifest

    class Reference:
        def __init__(self, file: Path, temperature: float) -> None:
            assert file.read_bytes() == b"weights"
            assert temperature == manifest.decision.temperature, "calibrated like the variants"

        def predict(self, cells: NDArray[np.uint8]) -> NDArray[np.float32]:
            return onnx_answers(tmp_path / "reference.onnx", cells)

    monkeypatch.setattr("export.to_onnx.KerasModel", Reference)
    monkeypatch.setattr("train.metrics.RESAMPLES", 20)  # the intervals of the printed table are judged elsewhere
    return tmp_path / "bundle"


@pytest.fixture
def failing(bundle: Path) -> Path:
    """The bundle with an int8 variant that decides otherwise: its second inner layer is half of what it was."""
    halved = saved(
        brightness_network({"inner2/kernel": lambda kernel: averaging(kernel) * np.float32(0.5)}),
        bundle / "halved.onnx",
    )
    write_int8(halved, bundle / "model.int8.onnx", exact_answers(halved, CELLS), largest_activations(halved, CELLS))
    halved.unlink()
    refresh(bundle)
    return bundle


def verified(bundle: Path, *options: str, data: Path = DEMO_CELLS) -> int:
    return main(["verify", str(bundle), "--data", str(data), *options])


def proof_of(bundle: Path, precision: str) -> Proof:
    return Bundle.open(bundle).variant(precision).proof


def answers_of(file: Path) -> dict[str, float]:
    paths = [cell.path for cell in find_cells(DEMO_CELLS)]
    cells = np.stack([load_cell(path, ImageSpec(SIZE, SIZE)) for path in paths])
    return dict(zip(map(str, paths), onnx_answers(file, cells).tolist(), strict=True))


def opens(bundle: Path, precision: str, *, unproved: bool = False) -> bool:
    options = ClassifierOptions(bundle, backend="cpu", precision=precision, unproved=unproved)
    with Classifier(options) as classifier:
        return classifier.precision == precision


def test_a_bundle_that_decides_like_keras_passes_and_the_proof_is_written_into_it(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Bundle.open(bundle).manifest
    signature = bundle / SIGNATURE_NAME
    signature.write_bytes(b"of the old verdict")
    assert verified(bundle) == 0
    assert not signature.exists()
    after = Bundle.open(bundle).manifest
    for variant in after.variants:
        assert variant.proof.passed
        assert (variant.proof.data, variant.proof.cells, variant.proof.batch_sizes) == ("demo_cells", 9, (8, 1, 5))
        assert variant.proof.tolerance == TOLERANCES[variant.precision]
    assert proof_of(bundle, "int8").max_difference > proof_of(bundle, "fp16").max_difference > 0
    without_proof = [asdict(variant) | {"proof": None} for variant in before.variants]
    assert [asdict(variant) | {"proof": None} for variant in after.variants] == without_proof
    unchanged = replace(after, variants=before.variants, card_sha256=before.card_sha256)
    assert unchanged == before, "nothing else is changed"
    said = capsys.readouterr().out
    assert said.count(" passed\n") == 3
    assert "2 of these cells are of the run's training part\n" in said
    assert "7 are of its validation part: epoch, temperature and threshold were chosen on them\n" in said
    assert said.endswith(f"sign it again: python -m export sign\nThe verdict is written into {bundle}\n")


def test_the_table_counts_answers_that_are_no_numbers_as_the_gate_does() -> None:
    labels = np.arange(40) % 2 == 0
    keras = np.where(labels, 0.9, 0.1).astype(np.float32)
    answers = keras.copy()
    answers[[0, 1, 3]] = np.nan  # one ALL cell and two healthy ones of twenty each
    scores = Scores([], labels, keras, {"fp32": {BATCH_SIZE: answers}}, {})
    [verdict] = judge_all(scores, 0.5, {"fp32": TOLERANCES["fp32"]}, "drawn")
    metrics = Verification(scores, [verdict], 0.5, Seen(0, 0, None)).metrics["fp32"]
    assert (metrics.sensitivity.value, metrics.specificity.value) == (0.95, 0.9)
    figures = asdict(verdict.proof.variant)
    assert {name: getattr(metrics, name).value for name in figures} == pytest.approx(figures, abs=1e-6)


@pytest.mark.parametrize(("fewest", "code"), [(3, 0), (4, 2)], ids=["just enough", "too few"])
def test_a_verdict_on_few_cells_is_told_and_takes_no_proofs_place(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fewest: int, code: int
) -> None:
    before = (bundle / MANIFEST_NAME).read_bytes(), (bundle / CARD_NAME).read_bytes()
    monkeypatch.setattr(export.fewest_cells, "FEWEST_TO_PROVE", fewest)  # healthy cells of the package are 3
    assert verified(bundle) == code
    said = capsys.readouterr().out
    assert (said.count(" passed\n"), said.count(" NOT PROVED\n")) == ((3, 0) if code == 0 else (0, 3))
    assert (f"The verdict is written into {bundle}\n" in said) == (code == 0)
    reason = "compared on too few cells for a proof: 6 ALL and 3 healthy, where 4 of each class are needed"
    assert (f"The verdict is not written: {reason}\n" in said) == (code == 2)
    is_unchanged = before == ((bundle / MANIFEST_NAME).read_bytes(), (bundle / CARD_NAME).read_bytes())
    assert is_unchanged == (code == 2)


def test_a_failure_on_few_cells_is_an_exit_code_and_no_verdict(
    failing: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export.fewest_cells, "FEWEST_TO_PROVE", 10)
    before = (failing / MANIFEST_NAME).read_bytes()
    assert verified(failing) == 1
    assert "int8 failed: " in capsys.readouterr().out
    assert (failing / MANIFEST_NAME).read_bytes() == before


def test_a_failure_on_more_cells_is_not_taken_back_by_fewer(failing: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verified(failing) == 1
    failure = proof_of(failing, "int8")
    assert verified(failing, "--cells", "6") == 1
    assert proof_of(failing, "int8") == failure, "nor displaced by a failure on fewer, which so few could take back"
    few = ("--cells", "6", *(f"--tolerance=int8:{limit}=1" for limit in ("auc", "sensitivity", "specificity")))
    assert verified(failing, *few) == 2
    assert proof_of(failing, "int8") == failure
    assert proof_of(failing, "fp16").cells == 6, "the others' verdicts are written"
    assert (
        "int8 stays refused: it failed on 9 cells (demo_cells), more than these; verify it on 9 or more\n"
        in capsys.readouterr().out
    )


def test_any_proof_takes_the_place_of_a_comparison_on_too_few_of_a_class(bundle: Path) -> None:
    manifest = manifest_of(bundle)
    few = too_few_to_prove([1] * 50)
    variants = [replace(each, proof=replace(each.proof, cells=50, failures=(few,))) for each in manifest.variants]
    write_manifest(bundle, replace(manifest, variants=tuple(variants)))
    assert verified(bundle) == 0
    assert opens(bundle, "fp16")


def test_only_the_last_section_of_the_card_is_written_anew(bundle: Path) -> None:
    card = bundle / CARD_NAME
    head, heading, _ = card.read_text(encoding="utf-8").partition(FILES_HEADING)
    card.write_text(f"{head}A note of ours.\n\n{heading}old", encoding="utf-8")
    record_hashes(bundle)
    verified(bundle)
    text = card.read_text(encoding="utf-8")
    assert text.startswith(f"{head}A note of ours.\n\n{heading}")
    assert "old" not in text.removeprefix(head)
    assert text.count("(demo_cells): p_all differs by at most") == 3


def test_a_bundle_without_its_card_is_not_whole(bundle: Path) -> None:
    (bundle / CARD_NAME).unlink()
    with pytest.raises(BundleError, match=r"expected the file MODEL_CARD\.md in the bundle"):
        verified(bundle)


def test_a_variant_that_fails_is_refused_by_the_runtime_and_the_others_are_not(
    failing: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert opens(failing, "int8"), "before it is verified nobody knows"
    assert verified(failing) == 1
    proof = proof_of(failing, "int8")
    assert not proof.passed
    said = capsys.readouterr().out
    for failure in proof.failures:
        assert f"int8 failed: {failure}\n" in said
    assert len(re.findall(r"int8 .* FAILED\n", said)) == 1
    assert "FAILED: " in (failing / CARD_NAME).read_text(encoding="utf-8")
    with pytest.raises(BundleError, match=r"but int8 of .* is not: .*or take it all the same with --unproved"):
        opens(failing, "int8")
    assert opens(failing, "int8", unproved=True)
    assert opens(failing, "fp32")
    assert opens(failing, "fp16")


def test_a_later_proof_lets_a_variant_that_failed_in_again(failing: Path, bundle: Path, converted: Path) -> None:
    assert verified(failing) == 1
    shutil.copy(converted / "bundle" / "model.int8.onnx", bundle)
    refresh(bundle)
    assert verified(bundle) == 0
    assert opens(bundle, "int8")
    assert "FAILED" not in (bundle / CARD_NAME).read_text(encoding="utf-8")


def test_cells_that_get_another_label_are_named_with_their_subject(
    failing: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threshold = Bundle.open(failing).manifest.decision.threshold
    keras, int8 = (answers_of(file) for file in (tmp_path / "reference.onnx", failing / "model.int8.onnx"))
    flipped = [path for path in keras if (keras[path] >= threshold) != (int8[path] >= threshold)]
    assert 0 < len(flipped) < len(keras), "otherwise this proves nothing"
    verified(failing)
    subjects = {str(cell.path): cell.subject for cell in find_cells(DEMO_CELLS)}
    named = re.findall(r"(\w+) gives (.*) of subject (\w+) another label", capsys.readouterr().out)
    assert named == [("int8", path, subjects[path]) for path in flipped]
    assert proof_of(failing, "int8").flipped == len(flipped)


def test_a_cell_of_no_subject_is_named_as_that(
    failing: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for cell in find_cells(DEMO_CELLS):
        target = tmp_path / "nameless" / cell.path.parent.name
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(cell.path, target / f"cell-{cell.sha256[:8]}.png")
    verified(failing, data=tmp_path / "nameless")
    assert re.search(r"int8 gives .*cell-.*\.png of subject unknown another label", capsys.readouterr().out)


def test_what_every_variant_says_of_every_cell_is_written(bundle: Path, tmp_path: Path) -> None:
    verified(bundle, "--out", str(tmp_path / "answers.csv"))
    with (tmp_path / "answers.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["path", "subject", "label", "keras", "fp32", "fp16", "int8"]
    cells = find_cells(DEMO_CELLS)
    assert [(row["path"], row["subject"], row["label"]) for row in rows] == [
        (str(cell.path), cell.subject, str(cell.label)) for cell in cells
    ]
    for name, file in (("keras", tmp_path / "reference.onnx"), *((p, bundle / f"model.{p}.onnx") for p in PRECISIONS)):
        expected = answers_of(file)
        for row in rows:
            assert re.fullmatch(r"\d\.\d{6}", row[name])
            assert float(row[name]) == pytest.approx(expected[row["path"]], abs=2e-5)


def test_a_table_that_cannot_be_written_is_refused_before_any_cell_is_looked_at(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        verified(bundle, "--out", str(tmp_path / "file" / "answers.csv"))
    assert capsys.readouterr().out == ""


def test_a_cell_that_cannot_be_read_costs_itself_alone(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copytree(DEMO_CELLS, tmp_path / "data"))
    (data / "hem" / "broken.png").write_bytes(b"no picture")
    assert verified(bundle, data=data) == 2
    assert proof_of(bundle, "fp32").cells == 9
    assert f"not readable: {data / 'hem' / 'broken.png'}: " in capsys.readouterr().out


def test_a_limit_takes_cells_spread_over_the_data(bundle: Path) -> None:
    assert verified(bundle, "--cells", "6") == 0
    assert proof_of(bundle, "fp32").cells == 6


def test_a_limit_that_leaves_one_class_is_named(bundle: Path) -> None:
    with pytest.raises(
        UsageError, match=r"expected --cells to leave cells of both classes of .*, received 1; take more"
    ):
        verified(bundle, "--cells", "1")


def test_answers_never_take_the_place_of_another_kind_of_file(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (bundle / "model.fp32.onnx").read_bytes()
    with pytest.raises(SystemExit) as refused:
        verified(bundle, "--out", str(bundle / "model.fp32.onnx"))
    assert refused.value.code == 1
    assert "argument --out: expected a name that ends in .csv, received " in capsys.readouterr().err
    assert (bundle / "model.fp32.onnx").read_bytes() == before


def test_a_folder_whose_name_is_no_utf8_is_told_in_the_card(bundle: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(DEMO_CELLS, tmp_path / "caf\udce9"))
    assert verified(bundle, data=data) == 0
    assert "(caf\\udce9): p_all" in (bundle / CARD_NAME).read_text(encoding="utf-8")


def test_cells_of_one_class_prove_nothing(bundle: Path) -> None:
    before = (bundle / MANIFEST_NAME).read_bytes()
    with pytest.raises(DataError, match=r"expected cells of both classes in .*hem, found 0 ALL and "):
        verified(bundle, data=DEMO_CELLS / "hem")
    assert (bundle / MANIFEST_NAME).read_bytes() == before


def test_a_changed_tolerance_is_obeyed_and_recorded(failing: Path) -> None:
    limits = ("auc", "sensitivity", "specificity")
    options = [word for limit in limits for word in ("--tolerance", f"int8:{limit}=1")]
    assert verified(failing, *options, "--tolerance", "fp16:max_difference=1e-7") == 1
    assert proof_of(failing, "int8").tolerance == replace(TOLERANCES["int8"], auc=1.0, sensitivity=1.0, specificity=1.0)
    assert proof_of(failing, "int8").passed
    [failure] = proof_of(failing, "fp16").failures
    assert re.fullmatch(r"p_all differs by \d\.\de-0\d \(at most 1e-07\)", failure)
    assert proof_of(failing, "fp32").tolerance == TOLERANCES["fp32"]


def test_recorded_tolerances_hold_until_others_are_named(failing: Path) -> None:
    limits = ("auc", "sensitivity", "specificity")
    recorded = replace(TOLERANCES["int8"], auc=1.0, sensitivity=1.0, specificity=1.0)
    assert verified(failing, *(word for limit in limits for word in ("--tolerance", f"int8:{limit}=1"))) == 0
    assert verified(failing) == 0
    assert proof_of(failing, "int8").tolerance == recorded
    assert verified(failing, "--tolerance", "int8:flipped=0") == 1
    assert proof_of(failing, "int8").tolerance == replace(recorded, flipped=0.0)


@pytest.mark.parametrize(
    ("subject", "method"),
    [("99", "bootstrap over 3 healthy and 3 ALL subjects"), ("1", "bootstrap over images"), ("", "over images")],
    ids=["unseen", "seen", "unknown"],
)
def test_intervals_are_over_subjects_where_the_run_was_fitted_on_none_of_them(
    bundle: Path, subject: str, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cells(bundle.parent / "run" / "cells.csv", [PlacedCell("", 1, subject, subject, "training", "another file")])
    assert verified(bundle) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Intervals: ")]
    assert method in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--tolerance", "int8:auc=0.1"),
            r"expected --tolerance of fp32(, fp16)?, received int8:auc; leave it out, or export with --precision int8",
        ),
        (
            ("--tolerance", "fp32:flipped=0.1", "--tolerance", "int8:auc=0.1"),
            r"expected --tolerance of fp32(, fp16)?, received int8:auc; leave it out",
        ),
    ],
)
def test_a_tolerance_of_a_precision_that_is_not_there_is_refused(
    tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle", ("fp32", "fp16"))
    for command in (
        ["verify", str(bundle), "--data", str(DEMO_CELLS)],
        ["onnx", "--run", "run", "--out", str(tmp_path / "new")],
    ):
        with pytest.raises(UsageError, match=message):
            main([*command, *words])


def test_layers_are_not_looked_for_where_there_is_fp32_alone(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle", ("fp32",))
    for command in (
        ["verify", str(bundle), "--data", str(DEMO_CELLS)],
        ["onnx", "--run", "run", "--out", str(tmp_path / "new"), "--precision", "fp32"],
    ):
        with pytest.raises(UsageError, match=r"expected a precision to compare with fp32 for --debug-precision"):
            main([*command, "--debug-precision"])


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("int8:sensitivity=0.01", ("int8", "sensitivity", 0.01)),
        ("fp32:max_difference=1e-3", ("fp32", "max_difference", 1e-3)),
        ("fp16:flipped=1", ("fp16", "flipped", 1.0)),
    ],
)
def test_a_tolerance_is_parsed(text: str, parsed: tuple[str, str, float]) -> None:
    assert tolerance(text) == parsed


@pytest.mark.parametrize(
    "text",
    ["int4:auc=0.1", "int8:accuracy=0.1", "int8:auc", "int8:auc=", "int8:auc=many", "int8:auc=2", "int8:auc=-1",
     "int8:auc=nan", "auc=0.1", "int8", ""],
)  # fmt: skip
def test_a_tolerance_that_is_none_is_refused_in_one_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["verify", "bundle", "--data", "data", "--tolerance", text])
    assert refused.value.code == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "argument --tolerance: " in said
    assert text.rpartition("=")[2] in said


def test_the_layers_where_a_variant_departs_are_named(failing: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verified(failing, "--debug-precision") == 1
    [line] = [line for line in capsys.readouterr().out.splitlines() if "layers that add most" in line]
    assert line.startswith("int8: layers that add most to its error: ")
    added = {layer: float(number) for layer, number in re.findall(r"(\S+) \(([^)]+)\)", line)}
    assert added["inner2/conv"] == pytest.approx(0.5, abs=0.05)
    assert max(added.get(layer, 0.0) for layer in ("stem/conv", "inner1/conv", "inner3/conv")) < 0.05


def test_layers_are_looked_for_on_cells_of_both_classes(failing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order the first are of one class: what another one alone brings out would not be found."""
    looked_at: list[NDArray[np.uint8]] = []
    monkeypatch.setattr(export.verify, "departures", lambda _, __, cells: looked_at.append(cells))
    assert verified(failing, "--debug-precision") == 1
    assert {bool(p_all >= 0.5) for p_all in onnx_answers(failing / "model.fp32.onnx", looked_at[0])} == {True, False}


def test_of_a_wrong_fp32_graph_the_conversion_is_named(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is made from it may agree with it, and be as wrong."""
    saved(brightness_network({"std": lambda values: 1.1 * values}), bundle / "model.fp32.onnx")
    refresh(bundle)
    assert verified(bundle, "--debug-precision") == 1
    assert "\nfp32: it is the conversion from Keras itself that departs; report it " in capsys.readouterr().out


def test_nothing_is_named_where_nothing_departs(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verified(bundle, "--debug-precision") == 0
    assert "layers that add most" not in capsys.readouterr().out


TAMPERED: dict[str, tuple[Callable[[Path], object], str]] = {
    "model": (
        lambda bundle: saved(small_network(), bundle / "model.fp16.onnx"),
        r"expected .*model\.fp16\.onnx to have the SHA-256 .*: the file was changed or damaged",
    ),
    "missing": (
        lambda bundle: (bundle / "model.int8.onnx").unlink(),
        r"expected the file model\.int8\.onnx in the bundle .*, found none; export it again",
    ),
    "keras": (
        lambda bundle: (bundle.parent / "run" / "best.keras").write_bytes(b"others"),
        r"expected the Keras model of the bundle in run or runs/run in .*, found another model at .*best\.keras; give",
    ),
    "run": (
        lambda bundle: shutil.rmtree(bundle.parent / "run"),
        r"expected the Keras model of the bundle in run or runs/run in .*, found none; give its run folder with --run",
    ),
}


@pytest.mark.parametrize(("tamper", "message"), TAMPERED.values(), ids=TAMPERED.keys())
def test_what_was_tampered_with_is_refused_in_one_line_and_nothing_is_written(
    bundle: Path,
    tamper: Callable[[Path], object],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tamper(bundle)
    before = (bundle / MANIFEST_NAME).read_bytes()
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: verified(bundle))
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.match(f"error: {message}", said)
    assert (bundle / MANIFEST_NAME).read_bytes() == before


def test_a_keras_model_that_may_not_be_read_is_named_with_the_reason(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch, bundle.parent / "run" / "best.keras")
    with pytest.raises(
        BundleError, match=r"cannot read the Keras model .*best\.keras: Permission denied; make it readab"
    ):
        verified(bundle, "--run", str(bundle.parent / "run"))


def test_the_run_may_lie_elsewhere(bundle: Path) -> None:
    (bundle.parent / "run").rename(bundle.parent / "moved")
    assert verified(bundle, "--run", str(bundle.parent / "moved")) == 0


def test_a_power_cut_at_any_moment_leaves_a_bundle_that_opens_with_the_old_or_the_new_verdict(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts: list[Path] = []
    real = Path.replace

    def replaced(path: Path, target: Path) -> Path:
        moved = real(path, target)
        cuts.append(Path(shutil.copytree(bundle, tmp_path / f"cut{len(cuts)}")))
        return moved

    before = Bundle.open(bundle)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replaced)
        assert verified(bundle) == 0
    after = Bundle.open(bundle)
    opened = [Bundle.open(cut) for cut in cuts]
    assert [(cut.manifest, cut.card) for cut in opened] == [
        (before.manifest, before.card),
        (after.manifest, after.card),
        (after.manifest, after.card),
    ]
    whole = {path.name for path in bundle.iterdir()}
    for cut in cuts[:2]:
        assert verified(cut) == 0
        assert {path.name for path in cut.iterdir() if not path.name.startswith(".")} == whole


def test_what_was_written_while_cells_were_scored_is_not_overwritten(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others: dict[str, bytes] = {}

    def print_verification(_: Verification) -> None:
        """Verify with other limits meanwhile, in another process as it were."""
        with monkeypatch.context() as patch:
            patch.setattr(export.verify, "print_verification", quiet)
            assert verified(bundle, "--tolerance", "fp16:auc=0.5") == 0
        others.update({path.name: path.read_bytes() for path in bundle.iterdir()})

    def quiet(_: Verification) -> None:
        """Say nothing."""

    monkeypatch.setattr(export.verify, "print_verification", print_verification)
    with pytest.raises(BundleError, match="to stay as it is while it is verified, found that it was exported or"):
        verified(bundle)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == others


def test_a_full_disk_leaves_the_old_verdict(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.write_text

    def full(path: Path, *given: Any, **named: Any) -> int:
        if path.suffix == ".json":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, *given, **named)

    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutputError, match=r"cannot write .*: No space left on device"):
        verified(bundle)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before, "the card's as well"
