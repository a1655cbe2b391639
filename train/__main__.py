"""python -m train: fit | distill | evaluate | compare | draw."""

from __future__ import annotations

import argparse
import sys

from runtime.cell_names import shell_word
from runtime.command_line import DONE, INTERRUPTED, PARTLY_DONE, run_command
from runtime.outcomes import nouns
from runtime.schema import SplitOptions
from train.arguments import build_parser, fit_options, recipe_with, split_options
from train.tensorflow_import import quiet_tensorflow


def main(arguments: list[str] | None = None) -> int:
    """Run one of the commands; return the exit code."""
    given = build_parser().parse_args(arguments)
    try:
        return {"fit": _fit, "distill": _fit, "evaluate": _evaluate, "compare": _compare, "draw": _draw}[given.command](
            given
        )
    except KeyboardInterrupt:
        hint = "; if an epoch was finished, the same command with --resume continues from there"
        print(f"interrupted{hint if given.command in ('fit', 'distill') else ''}", file=sys.stderr)
        return INTERRUPTED


def _fit(given: argparse.Namespace) -> int:
    with quiet_tensorflow():
        from train.fit import fit
        from train.models.network import NETWORKS

    kind = NETWORKS[given.model]
    is_whole = fit(
        fit_options(given, _split(given), kind.size, kind.weights),
        given.out,
        recipe_with(given, kind.recipe),
        resume=given.resume,
        cache=given.cache,
    )
    print(f"Next: python -m export onnx --run {shell_word(given.out)} --out BUNDLE")
    return DONE if is_whole else PARTLY_DONE


def _split(given: argparse.Namespace) -> SplitOptions:
    """Return the split of the command line, or that of the teacher, which a resumed run has kept."""
    from train.run_folder import RunFolder
    from train.teacher import split_of_teacher

    if given.command == "fit":
        return split_options(given)
    return RunFolder(given.out).config().options.split if given.resume else split_of_teacher(given.teacher)


def _evaluate(given: argparse.Namespace) -> int:
    with quiet_tensorflow():
        from train.evaluate import evaluate

    has_aim = evaluate(given.run, given.data, given.split_part, aim=given.aim, cache=given.cache)
    return DONE if has_aim else PARTLY_DONE


def _compare(given: argparse.Namespace) -> int:
    from train.compare import compare

    compare(given.runs, given.out)
    return DONE


def _draw(given: argparse.Namespace) -> int:
    from train.drawn_cells import draw_cells

    draw_cells(given.out, given.images, seed=given.seed, suffix=f".{given.format}")
    print(f"{given.images} drawn {nouns(given.images, 'cell')}, no photographs, in {given.out}")
    print(f"Next: python -m train fit --data {shell_word(given.out)} --model compact --out RUN")
    return DONE


if __name__ == "__main__":
    run_command(main)
