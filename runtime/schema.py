"""Every shape that is written to disk and read again by another stage; standard library only.

A manifest is read strictly: a missing key, an unknown key or a value of another type is an error that names it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import types
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from runtime.errors import BundleError, RunError, UnopenableCellError

SCHEMA_VERSION = 7
CLASSES = ("healthy", "ALL")  # index = label: 0 is healthy, 1 is ALL, the positive class
MANIFEST_NAME = "bundle.json"
GOLDEN_NAME = "golden.npz"
CARD_NAME = "MODEL_CARD.md"
NEW_CARD_NAME = "MODEL_CARD.new.md"  # the card of a manifest that is replaced, until it takes the old one's place
SIGNATURE_NAME = "bundle.json.sig"  # of the manifest's bytes, where the bundle is signed
SEAL = "content_sha256"  # the key of bundle.json under which the hash of all else in it stands
ENGINES_FOLDER = "engines"  # inside a bundle; its files are made on the device and stand in no manifest
SPLITS = ("image", "subject", "folds", "fixed")
OPTIMIZERS = ("adam", "sgd")
SCHEDULES = ("constant", "cosine")
TRAINING_PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
MODELS = ("allnet", "vgg", "resnet", "inception", "compact")
DEFAULT_THRESHOLD = 0.5
INPUT_NAME = "cells"  # uint8 [N, height, width, 3], RGB, 0..255
OUTPUT_NAME = "p_all"  # float32 [N], probability of ALL
HEAT_NAME = "heat"  # float32 [N, rows, columns], which places speak for ALL (above 0) and against; not in every graph

ENGINE_PRECISIONS = ("fp32", "fp16", "int8")  # that TensorRT takes
PRECISIONS = (*ENGINE_PRECISIONS, "int8_cpu")
INT8_PRECISIONS = ("int8", "int8_cpu")

# Largest difference in p_all, on the golden cells, from what the same file gave when it was exported: another machine's
# kernels add in another order and round at other places.
SELF_TEST_TOLERANCES = {"fp32": 1e-4, "fp16": 5e-3, "int8": 3e-2, "int8_cpu": 3e-2}


@dataclass(frozen=True)
class Tolerance:
    """How far a variant may lie from the Keras model on labelled cells; None: it is not judged by this."""

    max_difference: float | None = None  # of p_all, on any cell
    flipped: float | None = None  # share of the cells whose label at the threshold differs, 0..1
    auc: float | None = None  # change of the area under the ROC curve, either way
    sensitivity: float | None = None  # change at the threshold, either way
    specificity: float | None = None


_INT8 = Tolerance(auc=0.002, sensitivity=0.005, specificity=0.005)
# Measured differences of fp32 are near 1e-6; another CPU's kernels reach a few 1e-5.
TOLERANCES = {
    "fp32": Tolerance(max_difference=1e-4, flipped=0.0),
    "fp16": Tolerance(flipped=0.001, auc=0.0005),
    "int8": _INT8,
    "int8_cpu": _INT8,
}


@dataclass(frozen=True)
class ImageSpec:
    """How a file becomes the network's input; `runtime.preprocessing` follows it."""

    width: int  # pixels
    height: int  # pixels
    color: str = "RGB"
    resize: str = "pillow-bilinear-antialiased"
    padding: str = "black-to-square"


@dataclass(frozen=True)
class Interval:
    """A metric with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Metrics:
    """The five metrics at `threshold`; fractions 0..1, positive class ALL."""

    cells: int
    threshold: float
    accuracy: Interval
    sensitivity: Interval
    specificity: Interval
    auc: Interval
    f1: Interval
    interval_method: str
    constant: str | None  # the one label that a constant classifier gives to every cell


@dataclass(frozen=True)
class Decision:
    """How a network's output becomes an answer; all of it chosen on the validation part."""

    aim: str  # what the threshold was chosen for: "none", "youden", "sensitivity=0.95" or "specificity=0.95"
    threshold: float  # a cell is ALL where the calibrated p_all >= threshold
    temperature: float  # calibrated p_all = sigmoid(logit / temperature)
    calibration_error_before: float  # expected calibration error of p_all, 0..1
    calibration_error_after: float
    review_low: float  # a person should look at cells with a calibrated p_all
    review_high: float  # from review_low to review_high


@dataclass(frozen=True)
class Figures:
    """The five metrics at the bundle's threshold, fractions 0..1."""

    accuracy: float
    sensitivity: float
    specificity: float
    auc: float
    f1: float


@dataclass(frozen=True)
class Proof:
    """How a variant's answers lay to the Keras model's on labelled cells, and the verdict."""

    data: str  # where the cells came from: a part of the run, or the name of a folder
    cells: int
    batch_sizes: tuple[int, ...]
    max_difference: float  # of p_all
    mean_difference: float
    flipped: int  # cells whose label at the threshold differs
    keras: Figures
    variant: Figures
    tolerance: Tolerance
    failures: tuple[str, ...]  # where the variant left its tolerance, a sentence each; none: it is proved

    @property
    def passed(self) -> bool:
        """Whether the variant may stand for the Keras model."""
        return not self.failures


@dataclass(frozen=True)
class Variant:
    """One converted model file of a bundle."""

    precision: str  # one of PRECISIONS
    file: str
    sha256: str
    opset: int
    kept_in_fp32: tuple[str, ...]  # layers that stay in float32: those with weights, and others that would overflow
    calibration_sha256: tuple[str, ...]  # the cells, of the training part, that were looked at to convert
    proof: Proof


@dataclass(frozen=True)
class SplitOptions:
    """Which cells are for training, validation and test."""

    kind: str  # one of SPLITS
    fractions: tuple[float, ...]  # shares of training, validation and test, for "image" and "subject"
    validation_subjects: tuple[str, ...] = ()  # for "subject": these instead of a share
    validation_fold: str = ""  # for "folds": the name of a folder of the release
    source: str = ""  # for "fixed": the run whose cells.csv is followed
    test_data: str = ""  # folder or table whose cells are the test part


@dataclass(frozen=True)
class FitOptions:
    """What a user decides about a run."""

    model: str  # one of MODELS
    data: str  # folder or table of labelled cells
    split: SplitOptions
    epochs: int
    batch_size: int
    image_size: int  # pixels, height and width
    weights: str  # "none", "imagenet", or a file or folder with Keras' official files
    seed: int
    teacher: str = ""  # for `distill`: the run folder whose best model teaches
    teacher_share: float = 0.0  # of the teacher in what is to be learnt; the rest is the label's


@dataclass(frozen=True)
class Recipe:
    """What the paper leaves open: how a network is optimized. Binary cross-entropy throughout; 0 switches off."""

    optimizer: str  # one of OPTIMIZERS
    learning_rate: float
    schedule: str  # one of SCHEDULES; cosine falls from learning_rate to 0 over all epochs
    weight_decay: float = 0.0  # decoupled from the gradient (Loshchilov, Hutter 2019), in proportion to the rate
    clip_norm: float = 0.0  # largest norm of all gradients together
    class_weights: bool = False  # both classes weigh the same in the loss
    average: float = 0.0  # momentum of the moving average of the weights, which is then what is validated and kept
    early_stopping: int = 0  # epochs without a better one after which the run ends
    turn: bool = False  # turn and mirror the training cells
    scale: float = 0.0  # largest relative change of size
    stain_jitter: float = 0.0  # standard deviation of the logarithm of the optical density's gain
    mixup: float = 0.0  # alpha of the Beta distribution by which two cells and their labels are mixed
    blur: float = 0.0  # pixels, largest standard deviation of a Gaussian blur, or sharpening by as much
    precision: str = "float32"  # one of TRAINING_PRECISIONS; what is kept is float32 in any case
    compiled: bool = False  # by XLA


@dataclass(frozen=True)
class RunConfig:
    """The content of a run's config.json."""

    options: FitOptions
    recipe: Recipe
    parameters: int
    part_sizes: dict[str, int]
    unseen_subjects: bool  # no subject of one part, nor one who shares a file with them, stands in another
    standardization_mean: tuple[float, ...]  # per channel R, G, B, of pixels 0..255 of the training part
    standardization_std: tuple[float, ...]
    code_version: str
    library_versions: dict[str, str]
    devices: tuple[str, ...]  # that trained together, such as "gpu:0"


@dataclass(frozen=True)
class Training:
    """Where a bundle's model comes from."""

    run: str  # the run folder's name; of a path, its last part
    keras_sha256: str  # of the run's best.keras
    best_epoch: int
    config: RunConfig
    validation: Metrics


@dataclass(frozen=True)
class Range:
    """From `low` to `high`, both included."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Appearance:
    """How one cell looks; the ranges of each measure stand in `TypicalCells` under the same name."""

    side: float  # pixels, the longer side of the image in the file
    foreground: float  # share of the pixels that are not black, 0..1
    brightness: float  # mean of the three channels over the foreground, 0..255; 0 where there is none
    red: float  # shares in that brightness, 0..1; green has the rest
    blue: float
    sharpness: float  # variance of the Laplacian inside the foreground
    offset: float  # of the foreground's center from the frame's, share of half a side
    spread: float  # mean squared distance of the foreground from its center, 1 for a disc of its area

    @property
    def green(self) -> float:
        """Its share in the brightness, 0..1; 0 where there is no foreground."""
        return 1 - self.red - self.blue if self.brightness else 0.0


@dataclass(frozen=True)
class TypicalSubjects:
    """Where the mean over the cells of one more subject is expected, with 99 %, for measures of `Appearance`."""

    subjects: int  # of the training part, whose means were taken
    foreground: Range
    brightness: Range
    red: Range
    green: Range
    blue: Range


@dataclass(frozen=True)
class TypicalCells:
    """How cells of the training part look, as `runtime.appearance` measures it; what lies outside goes to a person."""

    cells: int  # that were measured
    side: Range  # pixels, the longer side of the image in the file
    foreground: Range  # share of the pixels that are not black, 0..1
    brightness: Range  # mean of the three channels over the foreground, 0..255
    red: Range  # shares in that brightness, 0..1; green has the rest
    blue: Range
    sharpness: Range  # variance of the Laplacian inside the foreground
    offset: Range  # of the foreground's center from the frame's, share of half a side
    spread: Range  # of the foreground around its center, 1 for a disc of its area
    subjects: TypicalSubjects | None  # None: too few subjects, or cells of unknown ones


@dataclass(frozen=True)
class OperatingPoint:
    """What a threshold does on the cells that the bundle was proved on when it was exported; fractions 0..1."""

    threshold: float
    sensitivity: float
    specificity: float


@dataclass(frozen=True)
class Manifest:
    """The content of bundle.json."""

    schema_version: int
    classes: tuple[str, ...]
    decision: Decision
    image: ImageSpec
    golden_sha256: str
    card_sha256: str
    typical: TypicalCells
    curve: tuple[OperatingPoint, ...]  # of the Keras model, by rising threshold
    training: Training
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class EngineLayer:
    """One layer of a TensorRT engine as its inspector reports it; several of the graph may have become one."""

    name: str
    kind: str  # TensorRT's own word, such as "CaskConvolution"
    precision: str  # the narrowest datatype that it reads, such as "half", as told by:
    reads: tuple[str, ...]  # format and datatype of each input, in TensorRT's words
    gives: tuple[str, ...]  # of each output
    weights: str  # datatype; empty where TensorRT tells none


@dataclass(frozen=True)
class EngineRecord:
    """The JSON beside a TensorRT engine: where it may run, what it came from and what it holds."""

    gpu: str
    compute_capability: str  # such as "8.7"
    tensorrt: str  # the version, such as "10.3.0"
    driver_version: str | None  # of the NVIDIA driver itself, such as "540.4.0"; None where the system does not tell it
    driver_cuda_version: str  # the newest CUDA version that the driver knew, such as "12.6"
    onnx_sha256: str
    engine_sha256: str
    precision: str
    min_batch: int
    opt_batch: int
    max_batch: int
    optimization_level: int
    workspace_mib: int
    hardware_compatible: str  # "", "same-compute-capability" or "ampere-plus": which other GPUs it may run on
    version_compatible: bool  # newer versions of TensorRT may run it
    layer_precisions: dict[str, int]  # how many computing layers there are of each precision, for people
    layers: tuple[EngineLayer, ...]


@dataclass(frozen=True)
class Audit:
    """What more a row holds on request: which image was classified, and by what."""

    sha256: str  # of the image file; empty where it could not be read
    time: str  # when the row was made, UTC, ISO 8601
    threshold: float
    bundle: str  # SHA-256 of what its manifest holds, the hashes of its files among it
    precision: str
    backend: str  # library, version and device
    version: str  # of this package


@dataclass(frozen=True)
class Prediction:
    """One row of a results table."""

    path: str
    label: str  # one of CLASSES, empty for an error
    p_all: float | None  # probability of ALL, None for an error
    status: str  # "ok", "review" (a person should look, the label may be wrong) or "error" (there is no label)
    reason: str  # why it is not "ok", one line
    seconds: float  # time of reading this cell plus its share of its batch's inference
    audit: Audit | None = None  # where it was asked for
    identity: str = ""  # of the file that was read; in no table
    appearance: Appearance | None = None  # of the picture, where one was read; in no table

    @property
    def is_unopened(self) -> bool:
        """Whether the file could not be opened, so that the row says nothing of its content."""
        return self.status == "error" and self.reason.startswith(UnopenableCellError.BEGINNING)


Shape = TypeVar("Shape")


def to_json(shape: object) -> str:
    """Write a dataclass of this module as indented JSON text; a manifest with its seal."""
    if not dataclasses.is_dataclass(shape) or isinstance(shape, type):
        raise TypeError(f"expected an instance of a dataclass, received {type(shape).__name__}")
    raw = dataclasses.asdict(shape)
    if isinstance(shape, Manifest):
        raw[SEAL] = seal_of(raw)
    return json.dumps(raw, indent=2, allow_nan=False) + "\n"


def seal_of(raw: dict[str, Any]) -> str:
    """Return the SHA-256 of a manifest's content, without a seal, however its text is laid out."""
    return hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()


class _MismatchError(Exception):
    """JSON that is not of the expected shape; turned into the reader's own error below."""


def manifest_from_json(text: str, name: str) -> Manifest:
    """Read the bundle.json called `name`.

    Raises BundleError where it is not exactly a manifest of this version, or was changed after it was written.
    """
    try:
        raw = json.loads(text)
        if not isinstance(raw, dict):
            raise _MismatchError(f"expected an object, found {type(raw).__name__}")
        _refuse_other_version(raw.get("schema_version"), name)
        _refuse_broken_seal(raw.pop(SEAL, None), raw, name)
        manifest: Manifest = _read(Manifest, raw, "the manifest")
        _refuse_unknown_values(manifest)
    except (ValueError, OverflowError, RecursionError, _MismatchError) as error:
        raise BundleError(
            f"{name} is not one of this version: {error}; copy the bundle again or export it again"
        ) from error
    return manifest


def _refuse_other_version(version: object, name: str) -> None:
    if version == SCHEMA_VERSION:
        return
    if type(version) is not int:
        raise _MismatchError(f"expected schema_version {SCHEMA_VERSION}, found {version!r}")
    writer, way_out = "an older", "export the run again with this one"
    if version > SCHEMA_VERSION:
        writer, way_out = "a newer", "install that one, or export the run again with this"
    raise BundleError(
        f"expected {name} of schema_version {SCHEMA_VERSION}, found {version}: {writer} version of this toolkit wrote "
        f"it; {way_out}"
    )


def _refuse_broken_seal(seal: object, raw: dict[str, Any], name: str) -> None:
    """Raise BundleError unless a manifest matches its seal."""
    if seal != seal_of(raw):
        raise BundleError(
            f"expected {name} to match its {SEAL}, found other content: it was changed by "
            "hand or damaged; copy the bundle again or export it again (for another threshold: classify --threshold)"
        )


def _refuse_unknown_values(manifest: Manifest) -> None:
    """Raise _MismatchError where a value of the right type is not one that this version of the runtime supports."""
    if manifest.classes != CLASSES:
        raise _MismatchError(f"expected the classes {list(CLASSES)}, found {list(manifest.classes)}")
    known = ImageSpec(manifest.image.width, manifest.image.height)
    if manifest.image != known or min(known.width, known.height) < 1:
        raise _MismatchError(f"expected the image preparation {known}, found {manifest.image}")
    if manifest.training.config.options.model not in MODELS:
        raise _MismatchError(
            f"expected a network of {', '.join(MODELS)}, found {manifest.training.config.options.model!r}"
        )
    _refuse_unfit_decision(manifest.decision)
    precisions = [variant.precision for variant in manifest.variants]
    if not precisions or len(set(precisions)) < len(precisions) or not set(precisions) <= set(PRECISIONS):
        raise _MismatchError(f"expected precisions of {', '.join(PRECISIONS)}, each once at most, found {precisions}")


def _refuse_unfit_decision(decision: Decision) -> None:
    if not 0 <= decision.review_low <= decision.threshold <= decision.review_high <= 1:
        raise _MismatchError(
            "expected a threshold from 0 to 1 and a review band round it, found "
            f"{decision.threshold:g} and {decision.review_low:g} to {decision.review_high:g}"
        )
    if not decision.temperature > 0:
        raise _MismatchError(f"expected a temperature above 0, found {decision.temperature:g}")


def engine_record_from_json(text: str, name: str) -> EngineRecord:
    """Read an engine's JSON file called `name`; raise BundleError where it is not exactly an engine's record."""
    try:
        record: EngineRecord = _read(EngineRecord, json.loads(text), "the record")
    except (ValueError, OverflowError, RecursionError, _MismatchError) as error:
        raise BundleError(f"{name} is not one of this version: {error}; build the engine again") from error
    return record


def run_record_from_json(shape: type[Shape], text: str, name: str) -> Shape:
    """Read a run's JSON file called `name` as `shape`; raise RunError where it is not exactly that."""
    try:
        record: Shape = _read(shape, json.loads(text), "the record")
        if isinstance(record, Decision):
            _refuse_unfit_decision(record)
    except (ValueError, OverflowError, RecursionError, _MismatchError) as error:
        raise RunError(f"{name} is not one of this version: {error}; fit the model again") from error
    return record


def _read(kind: Any, raw: object, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, raw, where)
    if get_origin(kind) is tuple and isinstance(raw, list):
        return tuple(_read(get_args(kind)[0], item, f"{where}[{index}]") for index, item in enumerate(raw))
    if get_origin(kind) is dict and isinstance(raw, dict):
        return {key: _read(get_args(kind)[1], item, f"{where}.{key}") for key, item in raw.items()}
    if isinstance(kind, types.UnionType):
        present, _ = get_args(kind)
        return None if raw is None else _read(present, raw, where)
    if kind is float and type(raw) is int:
        return float(raw)
    if type(raw) is not kind or (isinstance(raw, float) and not math.isfinite(raw)):
        raise _MismatchError(f"expected {getattr(kind, '__name__', kind)} at {where}, found {raw!r}")
    return raw


@functools.cache  # Python compiles each hint anew, which takes most of the time that opening a manifest takes
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _read_dataclass(kind: Any, raw: object, where: str) -> Any:
    if not isinstance(raw, dict):
        raise _MismatchError(f"expected an object at {where}, found {raw!r}")
    hints = _hints(kind)
    missing, unknown = sorted(hints.keys() - raw.keys()), sorted(raw.keys() - hints.keys())
    if missing or unknown:
        raise _MismatchError(f"expected the keys {sorted(hints)} at {where}, missing {missing}, unknown {unknown}")
    return kind(**{name: _read(hint, raw[name], f"{where}.{name}") for name, hint in hints.items()})
