"""The training loop: one epoch at a time, each recorded before the next begins."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from tqdm import tqdm

import runtime
from runtime.errors import RunError
from runtime.schema import DEFAULT_THRESHOLD, FitOptions, Recipe, RunConfig
from train.batches import Batches
from train.callbacks import DIVERGED, batch_callback, seed_dropout
from train.dataset import Cell, find_cells, refuse_contradictions, refuse_one_class
from train.devices import refuse_compiled_on_several, shared_among, training_devices, unshared
from train.evaluate import evaluate_part, predict
from train.leaks import leak_report
from train.logs import EpochLogs
from train.models.network import NETWORKS, as_used, build_network, compile_network, load_network, refuse_unfit_size
from train.placed_cells import (
    PARTS,
    TRAINING,
    VALIDATION,
    PlacedCell,
    cells_of_part,
    has_unseen_subjects,
    refuse_other_labels,
)
from train.prepared import PreparedImages, prepare_images
from train.processes import Process, joined, refuse_differences
from train.resumption import refuse_other_backend, refuse_other_options
from train.run_folder import LOCK_NAME, Epoch, RunFolder, has_stopped_getting_better
from train.splits import refuse_too_few, refuse_unfit_split, split_cells
from train.standardization import Standardization, standardization_of
from train.teacher import refuse_unfit_teacher, targets_of, write_teaching

if TYPE_CHECKING:
    from numpy.typing import NDArray

RECORDED_LIBRARIES = ("keras", "tensorflow", "jax", "torch", "numpy", "opencv-python-headless", "pillow")

SMALLEST_P = 1e-7  # of the right label, in the validation loss; Keras cuts its own loss off there too

Tell = Callable[[str], None]
say = partial(print, flush=True)  # a log file shows an epoch when it ends


@dataclass(frozen=True)
class _Task:
    """What a run is to do."""

    folder: RunFolder
    process: Process  # this one, of those that share a batch
    options: FitOptions
    recipe: Recipe
    resume: bool
    cache: Path | None
    tell: Tell


@dataclass(frozen=True)
class _Plan(_Task):
    """A task with its cells, each in its part."""

    devices: tuple[str, ...]  # that share a batch
    cells: list[Cell]  # as found on the disk
    images: PreparedImages
    placed: list[PlacedCell]


@dataclass
class _Fit:
    """A run in progress."""

    plan: _Plan
    network: Any  # what is trained
    kept: Any  # what is validated and kept: the network itself, or its float32 twin with averaged weights
    training: Batches
    validation: Batches
    history: list[Epoch]


def fit(
    options: FitOptions,
    out: Path,
    recipe: Recipe | None = None,
    *,
    resume: bool = False,
    cache: Path | None = None,
    tell: Tell = say,
) -> bool:
    """Fit a network and leave a run folder at `out`.

    The checkpoint with the best validation accuracy is kept as best.keras; of equal ones that with the lower
    validation loss. With `resume`, a run that was cut off goes on after its last finished epoch, with the same batches
    and the same optimizer state as if it had never stopped. Without a `recipe`, the model's own is followed.

    Where the environment names several processes (train.processes), each calls this with the same arguments and reads
    the cells and, to resume, the run; the first alone writes to `out`, the others to folders that are then deleted.

    Returns whether nothing was left out: each file could be read, and the aim of a resumed run is kept. Raises
    UsageError, DataError, RunError or OutputError where something does not fit.
    """
    refuse_unfit_size(options.model, options.image_size)
    refuse_unfit_split(options.split)
    if not resume:
        refuse_unfit_teacher(options)
    _refuse_unfit_folder(RunFolder(out), resume)
    with joined(tell) as process, _own_folder(process, out, resume) as folder, folder.claimed():
        recipe = recipe or NETWORKS[options.model].recipe
        return _fit_claimed(_Task(folder, process, options, recipe, resume, cache, tell))


@contextmanager
def _own_folder(process: Process, out: Path, resume: bool) -> Iterator[RunFolder]:
    """Yield the run's folder to the first process, to the others a temporary one with what a resumed run needs."""
    if process.number == 0:
        yield RunFolder(out)
        return
    with tempfile.TemporaryDirectory() as temporary:
        if resume:
            shutil.copytree(out, temporary, ignore=shutil.ignore_patterns(".*", LOCK_NAME, "logs"), dirs_exist_ok=True)
        yield RunFolder(Path(temporary))


def _fit_claimed(task: _Task) -> bool:
    """Fit in a folder that no other process uses; return whether nothing was left out."""
    plan = _planned(task)
    options, tell = plan.options, plan.tell
    tell(f"{_describe(plan.placed, options)} on {' and '.join(plan.devices)}")
    leaks = leak_report(plan.placed, plan.images)
    tell(str(leaks))
    refuse_differences(
        plan.process,
        options=(options, plan.recipe),
        cells=[(cell.sha256, cell.label, cell.part) for cell in plan.placed],
        finished_epochs=plan.folder.history(),
    )
    keras.utils.set_random_seed(options.seed)  # a loaded network too is drawn at first, in all processes the same
    with shared_among(plan.devices):
        if plan.resume:
            run = _resumed(plan)
        else:
            run = _begun(plan)
            plan.folder.write_leaks(leaks)
        _fit_epochs(run)
    has_aim = evaluate_part(plan.folder, plan.images, VALIDATION, tell)
    return has_aim and not any(cell.sha256 in plan.images.unreadable for cell in plan.cells)


def _planned(task: _Task) -> _Plan:
    """Find and prepare the cells, and put each into its part, or where it was when the run was begun."""
    options = task.options
    devices = training_devices(task.process)
    refuse_compiled_on_several(task.recipe, devices)
    cells = find_cells(Path(options.data))
    refuse_one_class(cells, options.data)
    test_cells = find_cells(Path(options.split.test_data)) if options.split.test_data else []
    found = [*cells, *test_cells]
    images = prepare_images(found, options.image_size, task.cache)
    refuse_contradictions(found, images.unreadable)
    name_unreadable(found, images, task.tell)
    if task.resume:
        placed = task.folder.cells()
        refuse_other_labels((cell for cell in placed if cell.part in PARTS), found)
    else:
        placed = split_cells(cells, test_cells, images.unreadable, options.split, options.seed)
        refuse_too_few(placed, options.batch_size)
    return _Plan(**vars(task), devices=tuple(devices), cells=found, images=images, placed=placed)


def name_unreadable(cells: Sequence[Cell], images: PreparedImages, tell: Tell) -> None:
    """Tell which files are left out and why."""
    for cell in cells:
        if cell.sha256 in images.unreadable:
            tell(f"not readable, left out: {cell.path}: {images.unreadable[cell.sha256]}")


def _refuse_unfit_folder(folder: RunFolder, resume: bool) -> None:
    if resume and not folder.exists:
        raise RunError(f"expected a run to resume at {folder.path}, found none; omit --resume to begin one")
    if folder.exists and not resume:
        raise RunError(
            f"expected a new folder for the run, found a run at {folder.path}; "
            "add --resume to continue it, or choose another --out"
        )
    if not resume and folder.holds_something_else:
        raise RunError(
            f"expected a new or an empty folder for the run, found other files in {folder.path}; choose another --out"
        )


def _begun(plan: _Plan) -> _Fit:
    options, recipe, images = plan.options, plan.recipe, plan.images
    training = cells_of_part(plan.placed, TRAINING)
    standardization = standardization_of(images.pixels, images.rows([cell.sha256 for cell in training]))

    def build(weights: str, precision: str) -> Any:
        return build_network(options.model, options.image_size, standardization, weights, precision)

    network = build(options.weights, recipe.precision)
    kept = network
    if needs_twin(recipe):
        kept = build("none", "float32")
        kept.set_weights(network.get_weights())
    if options.teacher and not plan.folder.teaching.exists():
        with unshared(plan.process):
            write_teaching(plan.folder.teaching, options, plan.cells, training, plan.cache)
    run = _with_batches(plan, network, kept)
    compile_network(network, recipe, steps=len(run.training) * options.epochs)
    plan.folder.write_cells(plan.placed)
    plan.folder.write_config(_config(plan, standardization, network))
    return run


def needs_twin(recipe: Recipe) -> bool:
    """Say whether the network that is kept differs from the one that is trained."""
    return recipe.average > 0 or recipe.precision != "float32"


def _resumed(plan: _Plan) -> _Fit:
    folder = plan.folder
    config = folder.config()
    history = folder.history()
    refuse_other_backend(config, keras.backend.backend())
    refuse_other_options(plan.options, plan.recipe, config, len(history))
    if not history:
        return _begun(plan)
    network = load_network(folder.resume_model(len(history)), "fit again", to_train_in=plan.recipe.precision)
    kept = load_network(folder.kept_model(len(history)), "fit again") if needs_twin(plan.recipe) else network
    folder.forget_states_before(len(history))
    folder.write_config(replace(config, options=plan.options))
    return replace(_with_batches(plan, network, kept), history=history)


def _with_batches(plan: _Plan, network: Any, kept: Any) -> _Fit:
    options = plan.options
    cells = cells_of_part(plan.placed, TRAINING)
    training = Batches(
        plan.images,
        cells,
        batch_size=options.batch_size,
        shuffle_seed=options.seed,
        recipe=plan.recipe,
        targets=targets_of(plan.folder.teaching, cells, options.teacher_share) if options.teacher else None,
        devices=len(plan.devices),
        process=plan.process,
    )
    validation = Batches(
        plan.images,
        cells_of_part(plan.placed, VALIDATION),
        batch_size=options.batch_size,
        devices=len(plan.devices),
    )
    return _Fit(plan, network, kept, training, validation, history=[])


def _fit_epochs(run: _Fit) -> None:
    """Train for the epochs that are still to come."""
    folder, recipe, epochs, tell = run.plan.folder, run.plan.recipe, run.plan.options.epochs, run.plan.tell
    if len(run.history) < epochs:
        folder.forget_metrics()  # they are of a checkpoint that the next epochs may replace
        batches = len(run.training)
        tell(f"training: a line after each epoch of {batches} {'batch' if batches == 1 else 'batches'}")
    with closing(EpochLogs(folder.logs, len(run.history) + 1, tell)) as logs:
        for epoch in range(len(run.history), epochs):
            if has_stopped_getting_better(run.history, recipe.early_stopping):
                tell(f"stopped: no better epoch in the last {recipe.early_stopping}")
                break
            _fit_epoch(run, epoch, epochs)
            logs.add(run.history[-1])


def _fit_epoch(run: _Fit, epoch: int, epochs: int) -> None:
    """Train for one epoch, keep what is best, then record the epoch as finished."""
    started = time.perf_counter()
    folder = run.plan.folder
    logs = _trained(run, epoch)
    with unshared(run.plan.process), as_used(run.kept):
        val_loss, val_accuracy = loss_and_accuracy(run.validation.labels, predict(run.kept, run.validation))
        done = Epoch(
            epoch=epoch + 1,
            loss=logs["loss"],
            accuracy=logs["accuracy"],
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            learning_rate=float(keras.ops.convert_to_numpy(run.network.optimizer.learning_rate)),
            seconds=round(time.perf_counter() - started, 3),
            best=0,
        )
        if not math.isfinite(val_loss):
            raise RunError(f"expected a finite validation loss, found {val_loss} in epoch {done.epoch}: {DIVERGED}")
        if all(_better(done, earlier) for earlier in run.history):
            done = replace(done, best=1)
            folder.write_network(run.kept, folder.best_model)
    with unshared(run.plan.process):
        folder.write_network(run.network, folder.resume_model(done.epoch))
        if run.kept is not run.network:
            folder.write_network(run.kept, folder.kept_model(done.epoch))
    run.history.append(done)
    folder.write_history(run.history)
    folder.forget_states_before(done.epoch)
    run.plan.tell(
        f"epoch {done.epoch}/{epochs}  loss {done.loss:.4f}  accuracy {done.accuracy:.4f}  "
        f"val_loss {done.val_loss:.4f}  val_accuracy {done.val_accuracy:.4f}  {done.seconds:.0f} s"
        + ("  best so far" if done.best else "")
    )


def _trained(run: _Fit, epoch: int) -> dict[str, float]:
    """Train on all batches of an epoch; return its loss and accuracy."""
    run.training.epoch = epoch
    seed_dropout(run.network, run.plan.options.seed, epoch)
    bar = tqdm(total=len(run.training), desc=f"epoch {epoch + 1}", unit="batch", disable=None, leave=False)
    with bar, run.training.telling_errors():
        history = run.network.fit(
            run.training,
            initial_epoch=epoch,
            epochs=epoch + 1,
            shuffle=False,
            verbose=0,
            callbacks=[batch_callback(epoch, bar, run.kept, run.plan.recipe.average)],
        ).history
    if run.kept is not run.network and not run.plan.recipe.average:
        run.kept.set_weights(run.network.get_weights())
    return {name: values[0] for name, values in history.items()}


def loss_and_accuracy(labels: NDArray[np.bool_], p_all: NDArray[np.float32]) -> tuple[float, float]:
    """Return the mean binary cross-entropy and the accuracy at 0.5 of p_all, float32 [N]."""
    p_of_label = np.clip(np.where(labels, p_all, 1 - p_all.astype(np.float64)), SMALLEST_P, 1)
    return float(-np.log(p_of_label).mean()), float(((p_all >= DEFAULT_THRESHOLD) == labels).mean())


def _better(epoch: Epoch, other: Epoch) -> bool:
    return (epoch.val_accuracy, -epoch.val_loss) > (other.val_accuracy, -other.val_loss)


def _config(plan: _Plan, standardization: Standardization, network: Any) -> RunConfig:
    return RunConfig(
        options=plan.options,
        recipe=plan.recipe,
        parameters=network.count_params(),
        part_sizes=_part_sizes(plan.placed),
        unseen_subjects=has_unseen_subjects(plan.placed),
        standardization_mean=standardization.mean,
        standardization_std=standardization.std,
        code_version=runtime.__version__,
        library_versions={
            "python": platform.python_version(),
            "backend": keras.backend.backend(),
            **{name: _version(name) for name in RECORDED_LIBRARIES},
        },
        devices=plan.devices,
    )


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _part_sizes(placed: list[PlacedCell]) -> dict[str, int]:
    return dict(Counter(cell.part for cell in placed))


def _describe(placed: list[PlacedCell], options: FitOptions) -> str:
    positives = sum(cell.label for cell in placed)
    parts = ", ".join(f"{size} {part}" for part, size in sorted(_part_sizes(placed).items()))
    return (
        f"{len(placed)} cells ({positives} ALL, {len(placed) - positives} healthy): {parts}; "
        f"split by {options.split.kind}; training {options.model}"
    )
