"""A resumed run must be the one that was begun: names the options that differ."""

from __future__ import annotations

from dataclasses import replace

from runtime.cell_names import shell_word
from runtime.errors import UsageError
from runtime.schema import FitOptions, Recipe, RunConfig, SplitOptions


def refuse_other_backend(config: RunConfig, backend: str) -> None:
    """Raise UsageError unless `backend` is the one that the run was begun with: its state belongs to that one."""
    begun = config.library_versions.get("backend", backend)
    if begun != backend:
        raise UsageError(f"expected the Keras backend of the run, found {backend}; resume with KERAS_BACKEND={begun}")


def refuse_other_options(options: FitOptions, recipe: Recipe, config: RunConfig, finished: int) -> None:
    """Raise UsageError where a resumed run would not be the one that was begun.

    Its cells, and the run whose split it follows, may have moved: cells.csv holds what the cells are and their parts.

    A run whose learning rate is constant may be given another number of epochs, though not below those `finished`:
    with another schedule the rate depends on their number.
    """
    begun = replace(config.options, data=options.data, split=_moved(config.options.split, options.split))
    if bool(begun.teacher) != bool(options.teacher):
        command = "distill" if begun.teacher else "fit"
        raise UsageError(
            f"expected the command that the run was begun with, received another; resume with python -m train {command}"
        )
    if begun.teacher:  # it has said what it has to say, and may have moved
        begun = replace(begun, teacher=options.teacher)
    if config.recipe.schedule == "constant" and options.epochs >= finished:
        begun = replace(begun, epochs=options.epochs)
    before, now = _as_arguments(begun, config.recipe), _as_arguments(options, recipe)
    expected = [argument for name, argument in before.items() if now[name] != argument]
    if expected:
        raise UsageError(
            "expected the options that the run was begun with, received others; resume with " + " ".join(expected)
        )


def _moved(begun: SplitOptions, now: SplitOptions) -> SplitOptions:
    """Return a split as it was begun, with the places that it names where they are now."""
    return replace(
        begun,
        source=begun.source and (now.source or begun.source),
        test_data=begun.test_data and (now.test_data or begun.test_data),
    )


def _as_arguments(options: FitOptions, recipe: Recipe) -> dict[str, str]:
    """Return all options as they are said on the command line, by name."""
    values = {**vars(options), **vars(options.split), **vars(recipe)}
    values["split"] = values.pop("kind")
    values["split_of"] = values.pop("source")
    return {name: _as_argument(name.replace("_", "-"), value) for name, value in values.items()}


def _as_argument(name: str, value: object) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    if value in ("", ()):
        return f"no --{name}"
    values = value if isinstance(value, tuple) else (value,)
    return " ".join((f"--{name}", *(shell_word(str(each)) for each in values)))
