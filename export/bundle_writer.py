"""Assembles a bundle in a temporary folder, proves it, and renames it into place."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.activations import larger, largest_activations
from export.curve import operating_curve
from export.departures import DEBUG_CELLS, OF_FP32, departures
from export.fewest_cells import too_few_to_prove
from export.finished_run import FinishedRun
from export.fp16 import write_fp16
from export.gate import Verdict, judge_all
from export.graph import OPSET
from export.heat_graph import SMALLEST_CORRELATION, center_heat, remove_heat, wrong_heat
from export.int8 import exact_answers, write_int8
from export.model_card import model_card
from export.operators import refuse_unsupported
from export.run_cells import training_cells, validation_cells
from export.scoring import REFERENCE, Scores, load_cells, score_cells
from export.typical import typical_cells
from runtime.backends.base import Backend
from runtime.backends.onnxruntime import OnnxRuntimeBackend
from runtime.classifier import Classifier, ClassifierOptions
from runtime.command_line import tell
from runtime.demo import demo_cells
from runtime.errors import ConversionError, NotFiniteError
from runtime.files import output_errors, sha256_of_file
from runtime.folders import folder_written_aside, refuse_foreign_folder, settle_folder
from runtime.inputs import spread_over
from runtime.preprocessing import load_cell
from runtime.schema import (
    CARD_NAME,
    CLASSES,
    ENGINE_PRECISIONS,
    ENGINES_FOLDER,
    GOLDEN_NAME,
    INT8_PRECISIONS,
    MANIFEST_NAME,
    NEW_CARD_NAME,
    SCHEMA_VERSION,
    SIGNATURE_NAME,
    TOLERANCES,
    ImageSpec,
    Manifest,
    Tolerance,
    Training,
    Variant,
    to_json,
)
from train.dataset import Cell
from train.tensorflow_import import quiet_tensorflow

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from export.to_onnx import KerasModel

ENGINE_FILES = tuple(f"{ENGINES_FOLDER}/*{suffix}" for suffix in (".engine", ".json", ".timing"))
BUNDLE_FILES = ("model.*.onnx", GOLDEN_NAME, CARD_NAME, NEW_CARD_NAME, SIGNATURE_NAME, *ENGINE_FILES)
TYPICAL_CELLS = 512  # of the training part tell how a cell looks
CALIBRATION_CELLS = 128  # of them are looked at to convert
OVERFLOW_CELLS = 128  # of the compared cells, on which fp16 must not overflow either
MEAN_CELLS = 32  # of them give the mean map
HEAT_CELLS = 16  # of the validation part on which the maps are compared
PART_OF_RUN = "validation part of the run"


@dataclass(frozen=True)
class ExportOptions:
    """What a user decides about a bundle."""

    precisions: tuple[str, ...] = ("fp32",)  # fp32 is written in any case: the others are made from it
    data: Path | None = None  # where the run's validation cells are now; None: where they were
    calibration_data: Path | None = None  # the same of the training cells
    gate_cells: int | None = None  # at most this many validation cells are compared; None: all
    tolerances: dict[str, Tolerance] = field(default_factory=lambda: dict(TOLERANCES))
    debug: bool = False  # name the layers where a failing variant departs
    source: str = "not stated"  # in the user's words, where the training cells come from; for the model card


Report = Callable[[Scores, Sequence[Verdict]], None]


@dataclass(frozen=True)
class WrittenBundle:
    """A manifest, with the scores that stand behind its proofs."""

    manifest: Manifest
    scores: Scores
    not_proved: str  # why there were too few cells for a proof; empty where every variant is proved


@dataclass(frozen=True)
class _Converted:
    """A variant's file before it is proved."""

    precision: str
    file: Path
    kept_in_fp32: tuple[str, ...] = ()
    calibration_sha256: tuple[str, ...] = ()


def write_bundle(
    run: FinishedRun, out: Path, options: ExportOptions, report: Report = lambda *_: None
) -> WrittenBundle:
    """Write the bundle of a run to `out`: ONNX variants, golden cells, manifest and model card.

    The golden cells are the drawn ones of the package, so that no patient's cell travels with a bundle. Nothing
    appears at `out` unless each variant decides like the Keras model on the run's validation cells and the runtime can
    open the bundle. An older bundle at `out` is replaced. Where the validation part has too few cells for a proof, the
    variants are recorded as not proved. `report` is given what was found, also where a variant is then refused.

    Raises OutputError where `out` is something else than a bundle, DataError where the run's cells are not at hand,
    ConversionError where a variant does not decide like the Keras model.
    """
    settle_folder(out)
    refuse_foreign_folder(out, MANIFEST_NAME, BUNDLE_FILES)
    size = run.config.options.image_size
    image = ImageSpec(width=size, height=size)
    cells = validation_cells(run, options.data, options.gate_cells)
    if few := too_few_to_prove(cell.label for cell in cells):
        tell(f"the bundle will not be proved, {few}; `python -m export verify` can prove it on other cells")
    examples = training_cells(run, options.calibration_data, TYPICAL_CELLS)
    with quiet_tensorflow():  # takes ten seconds: after the refusals above, which need not wait for it
        from export.to_onnx import KerasModel
    reference = KerasModel(run.keras_file, run.decision.temperature)
    reference.refuse_another_size(image)
    with folder_written_aside(out, MANIFEST_NAME, BUNDLE_FILES) as folder, output_errors(out):
        converted = _convert(reference, folder, image, examples, cells, options.precisions)
        tell(f"comparing {', '.join(each.precision for each in converted)} with the Keras model on {len(cells)} cells")
        scores, verdicts = _prove(converted, reference, cells, run.decision.threshold, image, options, report)
        not_proved = too_few_to_prove(scores.labels)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            classes=CLASSES,
            decision=run.decision,
            image=image,
            golden_sha256=sha256_of_file(folder / GOLDEN_NAME),
            card_sha256="",
            typical=typical_cells(examples, image),
            curve=operating_curve(scores.labels, scores.reference),
            training=_training(run),
            variants=tuple(
                _variant(each, verdict, not_proved) for each, verdict in zip(converted, verdicts, strict=True)
            ),
        )
        manifest = _written(manifest, folder, options.source)
        for variant in manifest.variants:
            opened = ClassifierOptions(bundle=folder, backend="cpu", precision=variant.precision, unproved=True)
            Classifier(opened).close()
    report(scores, verdicts)
    return WrittenBundle(manifest, scores, not_proved)


def _convert(
    reference: KerasModel,
    folder: Path,
    image: ImageSpec,
    typical: Sequence[Cell],
    compared: Sequence[Cell],
    precisions: Sequence[str],
) -> list[_Converted]:
    """Write a graph for each precision; fp32, from which the others are made, comes first in what is returned."""
    tell("converting to fp32")
    fp32 = folder / _file_name("fp32")
    reference.write_onnx(fp32)
    center_heat(fp32, load_cells(spread_over(typical, MEAN_CELLS), image))
    examples = spread_over(typical, CALIBRATION_CELLS)
    converted = [_Converted("fp32", fp32)]
    if set(precisions) - {"fp32"}:
        pixels = load_cells(examples, image)
        hashes = tuple(cell.sha256 for cell in examples)
        peaks = largest_activations(fp32, pixels)
        if "fp16" in precisions:
            tell("converting to fp16")
            file = fp32.with_name(_file_name("fp16"))
            # ONNX Runtime computes fp16 in float32 on a CPU, where nothing overflows: no comparison there would tell.
            of_compared = largest_activations(fp32, load_cells(spread_over(compared, OVERFLOW_CELLS), image))
            converted.append(_Converted("fp16", file, write_fp16(fp32, file, larger(peaks, of_compared)), hashes))
        if rounded := [precision for precision in INT8_PRECISIONS if precision in precisions]:
            exact = exact_answers(fp32, pixels)
            for precision in rounded:
                tell(f"converting to {precision}, calibrated on {len(pixels)} training cells")
                file = fp32.with_name(_file_name(precision))
                kept = write_int8(fp32, file, exact, peaks, for_cpu=precision == "int8_cpu")
                converted.append(_Converted(precision, file, kept, hashes))
    for each in converted:
        if each.precision in ENGINE_PRECISIONS:
            refuse_unsupported(each.file)
    return converted


def _prove(
    converted: Sequence[_Converted],
    reference: KerasModel,
    cells: Sequence[Cell],
    threshold: float,
    image: ImageSpec,
    options: ExportOptions,
    report: Report,
) -> tuple[Scores, tuple[Verdict, ...]]:
    """Write the golden cells, and judge each variant on the labelled ones, then its map.

    Raises ConversionError where a variant fails, or fp32's map.
    """
    folder = converted[0].file.parent
    with _opened(converted, image) as backends:
        golden = np.stack([load_cell(path, image) for path in demo_cells()])
        _write_golden(folder / GOLDEN_NAME, golden, reference, backends)
        scores = score_cells(cells, image, reference, backends)
        verdicts = judge_all(scores, threshold, options.tolerances, PART_OF_RUN)
        failed = [verdict for verdict in verdicts if not verdict.proof.passed]
        if failed:
            report(scores, verdicts)
            precisions = [verdict.precision for verdict in failed]
            raise _refusal(failed, _where(folder, precisions, image, scores.cells, debug=options.debug))
        wrong = wrong_heat(reference, backends, load_cells(spread_over(scores.cells, HEAT_CELLS), image))
    _take_out_heat([each for each in converted if each.precision in wrong], wrong)
    return scores, verdicts


def _take_out_heat(converted: Sequence[_Converted], wrong: dict[str, float]) -> None:
    """Let variants whose map is not the Keras model's go without one: what they answer has passed on its own."""
    for each in converted:
        remove_heat(each.file)
        tell(
            f"{each.precision} goes without the map: its correlation with the Keras model's is "
            f"{wrong[each.precision]:.3f}, where at least {SMALLEST_CORRELATION[each.precision]:g} is accepted; "
            "--explain finds it by covering places"
        )


def _written(manifest: Manifest, folder: Path, source: str) -> Manifest:
    """Write the card and the manifest, which holds the card's hash; return it."""
    (folder / CARD_NAME).write_text(model_card(manifest, source), encoding="utf-8")
    manifest = replace(manifest, card_sha256=sha256_of_file(folder / CARD_NAME))
    (folder / MANIFEST_NAME).write_text(to_json(manifest), encoding="utf-8")
    return manifest


def _file_name(precision: str) -> str:
    return f"model.{precision}.onnx"


@contextmanager
def _opened(converted: Sequence[_Converted], image: ImageSpec) -> Iterator[dict[str, Backend]]:
    """Load every variant on the CPU, by precision."""
    with ExitStack() as stack:
        yield {each.precision: stack.enter_context(OnnxRuntimeBackend(each.file, image, "cpu")) for each in converted}


def _write_golden(file: Path, cells: NDArray[np.uint8], reference: KerasModel, variants: dict[str, Backend]) -> None:
    """Keep the drawn cells with what the Keras model and each variant say of them."""
    arrays: dict[str, Any] = {"cells": cells, REFERENCE: reference.predict(cells)}
    for precision, backend in variants.items():
        try:
            arrays[precision] = backend.infer(cells)
        except NotFiniteError as error:
            raise ConversionError(
                f"expected probabilities from {precision} for the drawn cells of the package, found values that are "
                "not numbers; no bundle was written; leave the precision out"
            ) from error
    np.savez_compressed(file, **arrays)


def _variant(converted: _Converted, verdict: Verdict, not_proved: str) -> Variant:
    return Variant(
        precision=converted.precision,
        file=converted.file.name,
        sha256=sha256_of_file(converted.file),
        opset=OPSET,
        kept_in_fp32=converted.kept_in_fp32,
        calibration_sha256=converted.calibration_sha256,
        proof=replace(verdict.proof, failures=(not_proved,)) if not_proved else verdict.proof,
    )


def _refusal(failed: Sequence[Verdict], where: str) -> ConversionError:
    found = "; ".join(f"{verdict.precision}: {', '.join(verdict.proof.failures)}" for verdict in failed)
    return ConversionError(
        f"expected {' and '.join(verdict.precision for verdict in failed)} to decide like the Keras model on "
        f"{failed[0].proof.cells} cells, found: {found}; no bundle was written; {where}"
    )


def _where(folder: Path, failed: Sequence[str], image: ImageSpec, cells: Sequence[Cell], *, debug: bool) -> str:
    """Say where the precisions that failed depart, or how that can be found."""
    if "fp32" in failed:
        return OF_FP32
    if not debug:
        return (
            "leave the precision out, allow more with --tolerance, or name the layers where it departs with "
            "--debug-precision"
        )
    pixels = load_cells(spread_over(cells, DEBUG_CELLS), image)
    fp32 = folder / _file_name("fp32")
    return "; ".join(f"{each}: {departures(fp32, folder / _file_name(each), pixels)}" for each in failed)


def _training(run: FinishedRun) -> Training:
    # The folders' names alone: a full path may name a person or a ward, and a bundle travels.
    options = run.config.options
    split = replace(options.split, source=Path(options.split.source).name, test_data=Path(options.split.test_data).name)
    options = replace(
        options,
        data=Path(options.data).name,
        weights=Path(options.weights).name,
        teacher=Path(options.teacher).name,
        split=split,
    )
    return Training(
        run=Path(os.path.abspath(run.folder)).name,  # noqa: PTH100  as it is called here, wherever a link may lead
        keras_sha256=sha256_of_file(run.keras_file),
        best_epoch=run.best_epoch,
        config=replace(run.config, options=options),
        validation=run.validation,
    )
