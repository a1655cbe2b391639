"""The training loop: one epoch at a time, each recorded before the next begins."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

import runtime
from runtime.allocator import keep_freed_memory
from runtime.errors import RunError, UsageError
from runtime.files import refuse_foreign_folder
from runtime.schema import FitOptions, Recipe, RunConfig
from train.batches import Batches
from train.dataset import find_cells, refuse_one_class
from train.evaluate import evaluate_part
from train.models.network import build_network, check_size, compile_network, recipe_of
from train.prepared import PreparedImages, prepare_images
from train.run_folder import LOCK_NAME, Epoch, RunFolder
from train.splits import PlacedCell, cells_of_part, refuse_too_few, split_by_image
from train.standardization import Standardization, standardization_of

RECORDED_LIBRARIES = ("keras", "tensorflow", "numpy", "pillow")

Tell = Callable[[str], None]
say = partial(print, flush=True)  # a log file shows an epoch when it ends


@dataclass
class _Fit:
    """A run in progress."""

    folder: RunFolder
    network: Any
    training: Batches
    validation: Batches
    history: list[Epoch]
    seed: int


def fit(options: FitOptions, out: Path, *, resume: bool = False, cache: Path | None = None, tell: Tell = say) -> None:
    """Fit a network and leave a run folder at `out`.

    The checkpoint with the best validation accuracy is kept as best.keras; of equal ones that with the lower
    validation loss. With `resume`, a run that was cut off goes on after its last finished epoch, with the same batches
    and the same optimizer state as if it had never stopped.

    Raises UsageError, DataError, RunError or OutputError where something does not fit.
    """
    folder = RunFolder(out)
    check_size(options.image_size)
    _check_folder(folder, resume)
    with folder.claimed():
        _fit_claimed(folder, options, resume, cache, tell)


def _fit_claimed(folder: RunFolder, options: FitOptions, resume: bool, cache: Path | None, tell: Tell) -> None:
    cells = find_cells(Path(options.data))
    refuse_one_class(cells, options.data)
    images = prepare_images(cells, options.image_size, cache)
    if resume:
        placed = folder.cells()
    else:
        placed = split_by_image(cells, images.unreadable, options.fractions, options.seed)
        refuse_too_few(placed, options.batch_size)
    tell(_describe(placed))
    run = _resumed(folder, options, images, placed) if resume else _begun(folder, options, images, placed)
    if len(run.history) < options.epochs:
        folder.forget_metrics()  # they are of a checkpoint that the next epochs may replace
    for epoch in range(len(run.history), options.epochs):
        _fit_epoch(run, epoch, options.epochs, tell)
    evaluate_part(folder, images, "validation", tell)


def _check_folder(folder: RunFolder, resume: bool) -> None:
    if resume and not folder.exists:
        raise RunError(f"expected a run to resume at {folder.path}, found none; leave --resume away to begin one")
    if folder.exists and not resume:
        raise RunError(
            f"expected a new folder for the run, found a run at {folder.path}; "
            "add --resume to go on with it, or choose another --out"
        )
    if not resume:
        refuse_foreign_folder(folder.path, LOCK_NAME)


def _begun(folder: RunFolder, options: FitOptions, images: PreparedImages, placed: list[PlacedCell]) -> _Fit:
    keras.utils.set_random_seed(options.seed)
    training = cells_of_part(placed, "training")
    standardization = standardization_of(images.pixels, images.rows([cell.sha256 for cell in training]))
    network = build_network(options.model, options.image_size, standardization, options.weights)
    run = _with_batches(folder, options, images, placed, network)
    recipe = recipe_of(options.model)
    compile_network(network, recipe, steps=len(run.training) * options.epochs)
    folder.write_cells(placed)
    folder.write_config(_config(options, recipe, standardization, placed, network))
    return run


def _resumed(folder: RunFolder, options: FitOptions, images: PreparedImages, placed: list[PlacedCell]) -> _Fit:
    config = folder.config()
    history = folder.history()
    _refuse_other_options(options, config, len(history))
    if not history:
        return _begun(folder, options, images, placed)
    state = folder.resume_model(len(history))
    try:
        network = keras.models.load_model(state)
    except (OSError, ValueError) as error:
        raise RunError(
            f"expected the state after epoch {len(history)} at {state}, "
            f"found: {' '.join(str(error).split())}; fit again"
        ) from error
    folder.write_config(replace(config, options=options))
    return replace(_with_batches(folder, options, images, placed, network), history=history)


def _refuse_other_options(options: FitOptions, config: RunConfig, finished: int) -> None:
    """Raise UsageError where a resumed run would not be the one that was begun; its data may have moved."""
    begun = replace(config.options, data=options.data)
    if config.recipe.schedule == "constant" and options.epochs >= finished:
        begun = replace(begun, epochs=options.epochs)  # with another schedule the rate depends on their number
    if begun != options:
        names = [name for name in vars(options) if getattr(options, name) != getattr(begun, name)]
        expected = " ".join(_as_argument(name, getattr(begun, name)) for name in names)
        raise UsageError(f"expected the options that the run was begun with, received others; resume with {expected}")


def _as_argument(name: str, value: object) -> str:
    text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"--{name.replace('_', '-')} {text}"


def _with_batches(
    folder: RunFolder, options: FitOptions, images: PreparedImages, placed: list[PlacedCell], network: Any
) -> _Fit:
    return _Fit(
        folder,
        network,
        training=Batches(
            images,
            cells_of_part(placed, "training"),
            batch_size=options.batch_size,
            shuffle_seed=options.seed,
            augment=recipe_of(options.model).augment,
        ),
        validation=Batches(images, cells_of_part(placed, "validation"), batch_size=options.batch_size),
        history=[],
        seed=options.seed,
    )


def _fit_epoch(run: _Fit, epoch: int, epochs: int, tell: Tell) -> None:
    """Train for one epoch, keep what is best, then record the epoch as finished."""
    started = time.perf_counter()
    run.training.epoch = epoch
    seed_dropout(run.network, run.seed, epoch)
    with tqdm(total=len(run.training), desc=f"epoch {epoch + 1}", unit="batch", disable=None, leave=False) as bar:
        logs = run.network.fit(
            run.training,
            validation_data=run.validation,
            initial_epoch=epoch,
            epochs=epoch + 1,
            shuffle=False,
            verbose=0,
            callbacks=[EachBatch(bar)],
        ).history
    done = Epoch(
        epoch=epoch + 1,
        **{name: float(logs[name][0]) for name in ("loss", "accuracy", "val_loss", "val_accuracy")},
        learning_rate=float(run.network.optimizer.learning_rate),
        seconds=round(time.perf_counter() - started, 3),
        best=0,
    )
    if not (math.isfinite(done.loss) and math.isfinite(done.val_loss)):
        raise RunError(
            f"expected finite losses, found {done.loss} and {done.val_loss} in epoch {done.epoch}: "
            "the run diverged; try another --seed"
        )
    run.folder.write_state(run.network, done.epoch)
    if all(_better(done, earlier) for earlier in run.history):
        done = replace(done, best=1)
        run.folder.keep_as_best(done.epoch)
    run.history.append(done)
    run.folder.write_history(run.history)
    run.folder.resume_model(epoch).unlink(missing_ok=True)
    tell(
        f"epoch {done.epoch}/{epochs}  loss {done.loss:.4f}  accuracy {done.accuracy:.4f}  "
        f"val_loss {done.val_loss:.4f}  val_accuracy {done.val_accuracy:.4f}  {done.seconds:.0f} s"
        + ("  best so far" if done.best else "")
    )


class EachBatch(keras.callbacks.Callback):  # type: ignore[misc]
    """Moves the progress bar, and keeps freed memory: TensorFlow's generator undoes that before its first batch."""

    def __init__(self, bar: Any) -> None:
        super().__init__()
        self._bar = bar

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Let the C library keep what is freed from here on."""
        keep_freed_memory()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count the batch."""
        self._bar.update()


def seed_dropout(network: Any, seed: int, epoch: int) -> None:
    """Let the dropped units of an epoch depend on seed and epoch alone: Keras does not save the generators' state."""
    for index, layer in enumerate(network.layers):
        if hasattr(layer, "seed_generator"):
            drawn = np.random.default_rng([seed, epoch, index]).integers(2**31, size=2)
            layer.seed_generator.state.assign(drawn)


def _better(epoch: Epoch, other: Epoch) -> bool:
    return (epoch.val_accuracy, -epoch.val_loss) > (other.val_accuracy, -other.val_loss)


def _config(
    options: FitOptions,
    recipe: Recipe,
    standardization: Standardization,
    placed: list[PlacedCell],
    network: Any,
) -> RunConfig:
    return RunConfig(
        options=options,
        recipe=recipe,
        parameters=network.count_params(),
        part_sizes=_part_sizes(placed),
        standardization_mean=standardization.mean,
        standardization_std=standardization.std,
        code_version=runtime.__version__,
        library_versions={
            "python": platform.python_version(),
            "backend": keras.backend.backend(),
            **{name: _version(name) for name in RECORDED_LIBRARIES},
        },
    )


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _part_sizes(placed: list[PlacedCell]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for cell in placed:
        sizes[cell.part] = sizes.get(cell.part, 0) + 1
    return sizes


def _describe(placed: list[PlacedCell]) -> str:
    positives = sum(cell.label for cell in placed)
    parts = ", ".join(f"{size} {part}" for part, size in sorted(_part_sizes(placed).items()))
    return f"{len(placed)} cells ({positives} ALL, {len(placed) - positives} healthy): {parts}; split by image"
