"""Writes the page that tells people what a bundle's model is and is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from export.fewest_cells import is_not_proved
from export.fp16 import BOUND
from export.gate import changes
from runtime.schema import INT8_PRECISIONS, TOLERANCES, Interval, Manifest, Proof, Variant
from train.metrics import constant_note

CARD = """\
# {model}: ALL or healthy, from the image of one white blood cell

**For research, not a diagnosis.** This model has not been approved as a medical device, it has not been tried on
patients, and no decision about a patient may rest on it. It always answers: with a picture of anything else too.

## What it does

It takes one segmented white blood cell on black, {width} x {height} pixels after resizing, and gives `p_all`, the
probability that the cell is leukemic (acute lymphocytic leukemia, ALL). From {threshold:.4g} on a cell is called ALL
(aim: {aim}). Between {review_low:.3f} and {review_high:.3f} a person should look at it. The probability is calibrated
on the validation cells by the temperature {temperature:.3f}: its expected calibration error there is {error_after:.3f},
before it was {error_before:.3f}.

## What it was fitted on

- Data: {source}
- Cells: {parts}
- Protocol: split by {split}, seed {seed}. {protocol}
- Network: {model}, {parameters:,} parameters, {epochs} epochs, the checkpoint of epoch {best_epoch} (best validation
  accuracy), starting from {weights}{teacher}.
- Standardization (mean and standard deviation per channel, of the training cells): {mean} and {std}; it is part of
  the graph.

## How well it does

On the {cells} validation cells, with 95 % intervals ({method}). The checkpoint was chosen on these same cells, so
cells that it has never met will be told apart somewhat less well.

| accuracy | sensitivity | specificity | AUC | F1 |
|---|---|---|---|---|
| {accuracy} | {sensitivity} | {specificity} | {auc} | {f1} |
{constant}
## Files

{files}"""

FILES_HEADING = "## Files\n\n"
TENSORRT = (
    "TensorRT engines are built from these files on the device that runs them. That code has not yet run on a real "
    "TensorRT: it is tested against a simulator."
)
FP16 = (
    "Of fp16 the first convolutions and the last layer stay in float32, since rounding them moves `p_all` most, "
    f"and so does each layer with a value beyond {BOUND:.0f}, an eighth of the largest in fp16, on the cells that "
    "were looked at to convert. The verdict is of a CPU, where ONNX Runtime computes fp16 graphs in float32. What "
    "arithmetic in fp16 does is judged on the device that does it: `python -m benchmarks.rollout`."
)
INT8 = "Of {precisions} the layers stay in float32 whose rounding would move `p_all` most."
INT8_CPU = "int8_cpu is for CPUs alone."

SEEN_SUBJECTS = (
    "Cells of one subject stand in several parts, so these figures say nothing about unseen subjects, for whom they "
    "will be lower."
)
UNSEEN_SUBJECTS = "No subject stands in two parts, so these figures speak for subjects that the network has not seen."


def model_card(manifest: Manifest, source: str) -> str:
    """Return the card of a bundle as Markdown; `source` says in the user's words where the cells come from."""
    config, validation, decision = manifest.training.config, manifest.training.validation, manifest.decision
    return CARD.format(
        model=config.options.model,
        width=manifest.image.width,
        height=manifest.image.height,
        threshold=decision.threshold,
        aim=decision.aim,
        review_low=decision.review_low,
        review_high=decision.review_high,
        temperature=decision.temperature,
        error_before=decision.calibration_error_before,
        error_after=decision.calibration_error_after,
        source=_one_line(source),
        parts=", ".join(f"{size} {part}" for part, size in sorted(config.part_sizes.items())),
        split=config.options.split.kind,
        seed=config.options.seed,
        protocol=UNSEEN_SUBJECTS if config.unseen_subjects else SEEN_SUBJECTS,
        parameters=config.parameters,
        epochs=f"{'at most ' if config.recipe.early_stopping else ''}{config.options.epochs}",
        best_epoch=manifest.training.best_epoch,
        weights="random weights" if config.options.weights == "none" else "ImageNet weights",
        teacher=f", taught by the run {_one_line(config.options.teacher)}" if config.options.teacher else "",
        mean=", ".join(f"{value:.2f}" for value in config.standardization_mean),
        std=", ".join(f"{value:.2f}" for value in config.standardization_std),
        cells=validation.cells,
        method=validation.interval_method,
        accuracy=_percent(validation.accuracy),
        sensitivity=_percent(validation.sensitivity),
        specificity=_percent(validation.specificity),
        auc=_fraction(validation.auc),
        f1=_fraction(validation.f1),
        constant=f"\nA {constant_note(validation)}.\n" if validation.constant else "",
        files=_files(manifest),
    )


def card_with_proofs(card: str, manifest: Manifest) -> str:
    """Return a bundle's card with its last section, the files and how they were proved, written anew."""
    return card.partition(FILES_HEADING)[0] + FILES_HEADING + _files(manifest)


def _files(manifest: Manifest) -> str:
    lines = [
        f"- `{variant.file}`: {variant.precision}, opset {variant.opset}; {_proof(variant)}"
        for variant in manifest.variants
    ]
    return "\n".join((*lines, *(f"\n{note}" for note in _notes(manifest.variants)), ""))


def _notes(variants: Sequence[Variant]) -> Iterator[str]:
    precisions = [variant.precision for variant in variants]
    kept = [each.precision for each in variants if each.precision in INT8_PRECISIONS and each.kept_in_fp32]
    if "fp16" in precisions:
        yield FP16
    if kept:
        yield INT8.format(precisions=" and ".join(kept))
    if "int8_cpu" in precisions:
        yield INT8_CPU
    yield TENSORRT


def _proof(variant: Variant) -> str:
    proof, change = variant.proof, changes(variant.proof)
    verdict = "passed" if proof.passed else f"{_no(proof)}: {'; '.join(proof.failures)}"
    count = len(variant.kept_in_fp32)
    kept = f"{count} {'layer stays' if count == 1 else 'layers stay'} in float32; " if count else ""
    flipped = f"{proof.flipped} {'cell gets' if proof.flipped == 1 else 'cells get'}"
    return (
        f"{kept}beside the Keras model on {proof.cells} cells ({_one_line(proof.data)}): p_all differs by at most "
        f"{proof.max_difference:.1e}, {flipped} another label, sensitivity "
        f"{100 * change.sensitivity:+.2f} and specificity {100 * change.specificity:+.2f} points, AUC "
        f"{change.auc:+.5f}; {verdict}{_changed_limits(variant)}"
    )


def _no(proof: Proof) -> str:
    return "NOT PROVED" if is_not_proved(proof) else "FAILED"


def _changed_limits(variant: Variant) -> str:
    """Say within which limits a variant was judged where they are not the usual ones."""
    given, usual = asdict(variant.proof.tolerance), asdict(TOLERANCES[variant.precision])
    changed = [
        f"{name} {'unlimited' if value is None else f'{value:g}'}"
        for name, value in given.items()
        if value != usual[name]
    ]
    return f" (by limits of the user's own: {', '.join(changed)})" if changed else ""


def _one_line(text: str) -> str:
    """Return a user's words or a folder's name as they may stand in the card: no new heading, nothing but UTF-8."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode("utf-8").split())


def _percent(interval: Interval) -> str:
    return f"{interval.value * 100:.1f} % ({interval.low * 100:.1f} to {interval.high * 100:.1f})"


def _fraction(interval: Interval) -> str:
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"
