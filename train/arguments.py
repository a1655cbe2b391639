"""The command line of train: its options, and the objects they become."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from runtime.command_line import ArgumentParser, batch_size, parsed_number, positive_int
from runtime.schema import MODELS, OPTIMIZERS, SCHEDULES, SPLITS, TRAINING_PRECISIONS, FitOptions, Recipe, SplitOptions

FRACTIONS = (0.6, 0.2, 0.2)  # the paper's
EPOCHS, BATCH_SIZE = 40, 32  # the paper's
TEACHER_SHARE = 0.5
RECIPE_TITLE = "how the network is optimized (default: the model's own recipe; 0 switches off)"

RECIPE_HELP = {
    "optimizer": "how the weights are updated",
    "learning_rate": "at the start",
    "schedule": "of the learning rate: cosine falls to 0 over all epochs",
    "weight_decay": "decoupled from the gradient",
    "clip_norm": "largest norm of all gradients together",
    "class_weights": "give both classes the same weight in the loss",
    "average": "validate and keep a moving average of the weights with this momentum, such as 0.99",
    "early_stopping": "stop after this many epochs without a better one",
    "turn": "rotate and mirror the cells",
    "scale": "largest relative change of size, such as 0.05",
    "stain_jitter": "spread of a random gain on the optical density, such as 0.1",
    "mixup": "alpha for mixing two cells and their labels, such as 0.4",
    "blur": "largest blur or sharpening in pixels, such as 1",
    "precision": "what the layers compute in; the kept model is float32",
    "compiled": "compile the training step with XLA",
}
RECIPE_SHARES = ("average", "scale")
RECIPE_CHOICES = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "precision": TRAINING_PRECISIONS}


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(prog="python -m train", description="Fit and evaluate the networks on labelled cells.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{fit,distill,evaluate,compare,draw}")
    _add_fit(commands.add_parser("fit", help="fit a network and leave a run folder"))
    _add_distill(commands.add_parser("distill", help="fit a network to a trained run's answers and to the labels"))
    _add_evaluate(commands.add_parser("evaluate", help="the five metrics of a run's best model"))
    _add_compare(commands.add_parser("compare", help="Table I and II, tests, pictures and a page over finished runs"))
    _add_draw(commands.add_parser("draw", help="draw cells like those of C-NMC, for demos, tests and load"))
    return parser


def fit_options(given: argparse.Namespace, split: SplitOptions, image_size: int, weights: str) -> FitOptions:
    """Return the options of a run, with `image_size` and `weights` where the command line names none."""
    is_taught = given.command == "distill"
    return FitOptions(
        model=given.model,
        data=str(given.data),
        split=split,
        epochs=given.epochs,
        batch_size=given.batch_size,
        image_size=given.image_size or image_size,
        weights=given.weights or weights,
        seed=given.seed,
        teacher=str(given.teacher) if is_taught else "",
        teacher_share=given.teacher_share if is_taught else 0.0,
    )


def split_options(given: argparse.Namespace) -> SplitOptions:
    """Return how `fit` is to split the cells."""
    return SplitOptions(
        kind=given.split,
        fractions=tuple(given.fractions),
        validation_subjects=tuple(given.validation_subjects),
        validation_fold=given.validation_fold,
        source=str(given.split_of or ""),
        test_data=str(given.test_data or ""),
    )


def recipe_with(given: argparse.Namespace, recipe: Recipe) -> Recipe:
    """Return `recipe` with what the command line changes."""
    said = {field.name: getattr(given, field.name) for field in fields(Recipe)}
    return replace(recipe, **{name: value for name, value in said.items() if value is not None})


def _add_fit(fit: argparse.ArgumentParser) -> None:
    fit.add_argument("--model", choices=MODELS, required=True)
    _add_run(fit)
    _add_split(fit.add_argument_group("how the cells are split"))
    _add_recipe(fit.add_argument_group(RECIPE_TITLE))


def _add_distill(distill: argparse.ArgumentParser) -> None:
    distill.add_argument(
        "--teacher", type=Path, required=True, metavar="RUN", help="a finished run; its split is used again"
    )
    distill.add_argument(
        "--teacher-share",
        type=_share,
        default=TEACHER_SHARE,
        metavar="X",
        help=f"the teacher's share of the training target, the rest is the label's; default: {TEACHER_SHARE}",
    )
    distill.add_argument("--model", choices=MODELS, default="compact", help="default: compact")
    _add_run(distill)
    _add_recipe(distill.add_argument_group(RECIPE_TITLE))


def _add_run(fit: argparse.ArgumentParser) -> None:
    fit.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder of labelled cells, or a .csv table"
    )
    fit.add_argument("--out", type=Path, required=True, metavar="RUN", help="the run folder to write")
    fit.add_argument("--epochs", type=positive_int, default=EPOCHS, help=f"default: {EPOCHS}")
    fit.add_argument("--batch-size", type=batch_size, default=BATCH_SIZE, help=f"default: {BATCH_SIZE}")
    fit.add_argument("--image-size", type=positive_int, metavar="PX", help="default: 250, for compact 128")
    fit.add_argument(
        "--weights",
        metavar="{imagenet,none,PATH}",
        help="default: imagenet, for compact none; PATH is an official *_notop.h5 file, or a folder of them",
    )
    fit.add_argument("--seed", type=_seed, default=0)
    fit.add_argument("--resume", action="store_true", help="continue after the last finished epoch")
    _add_cache(fit)


def _add_split(group: Any) -> None:
    group.add_argument(
        "--split",
        choices=SPLITS,
        default="image",
        help="image: the paper's, subjects in several parts; subject: no subject in two parts; "
        "folds: by the release's folders; fixed: as another run",
    )
    group.add_argument(
        "--fractions",
        type=float,
        nargs=3,
        default=FRACTIONS,
        metavar=("TRAINING", "VALIDATION", "TEST"),
        help="default: 0.6 0.2 0.2",
    )
    group.add_argument(
        "--validation-subjects",
        nargs="+",
        default=(),
        metavar="S",
        help="with --split subject: those of the validation part",
    )
    group.add_argument("--validation-fold", default="", metavar="NAME", help="with --split folds: such as fold_2")
    group.add_argument("--split-of", type=Path, metavar="RUN", help="with --split fixed: the run whose parts to take")
    group.add_argument("--test-data", type=Path, metavar="DIR", help="cells for the test part, folder or .csv table")


def _add_recipe(group: Any) -> None:
    types = get_type_hints(Recipe)
    for field in fields(Recipe):
        option, description = f"--{field.name.replace('_', '-')}", RECIPE_HELP[field.name]
        if types[field.name] is bool:
            group.add_argument(option, action=argparse.BooleanOptionalAction, help=description)
        elif field.name in RECIPE_CHOICES:
            group.add_argument(option, choices=RECIPE_CHOICES[field.name], help=description)
        else:
            convert = _count if types[field.name] is int else _share if field.name in RECIPE_SHARES else _amount
            group.add_argument(option, type=convert, metavar="X", help=description)


def _add_evaluate(evaluate: argparse.ArgumentParser) -> None:
    evaluate.add_argument("--run", type=Path, required=True, metavar="RUN")
    evaluate.add_argument("--data", type=Path, required=True, metavar="DIR", help="where the run's cells are")
    evaluate.add_argument("--split-part", choices=("validation", "test"), default="validation")
    evaluate.add_argument(
        "--aim",
        metavar="{youden,sensitivity=S,specificity=S,none}",
        help="choose the threshold on the validation part; none is 0.5",
    )
    _add_cache(evaluate)


def _add_compare(compare: argparse.ArgumentParser) -> None:
    compare.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    compare.add_argument("--out", type=Path, required=True, metavar="DIR", help="an older comparison there is replaced")


def _add_draw(draw: argparse.ArgumentParser) -> None:
    draw.add_argument("--out", type=Path, required=True, metavar="DIR")
    draw.add_argument("--images", type=positive_int, required=True, metavar="N")
    draw.add_argument("--seed", type=_seed, default=0)
    draw.add_argument("--format", choices=("bmp", "png"), default="bmp")


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cache", type=Path, metavar="DIR", help="prepared images; default: the user's cache folder")


def _seed(text: str) -> int:
    """Parse a whole number from 0 to 2^32 - 1, which every random generator in use accepts."""
    return parsed_number(text, int, lambda number: 0 <= number < 2**32, f"a whole number from 0 to {2**32 - 1}")


def _amount(text: str) -> float:
    """Parse a number of 0 or more."""
    return parsed_number(text, float, lambda number: 0 <= number < float("inf"), "a number of 0 or more")


def _share(text: str) -> float:
    """Parse a number from 0 to below 1."""
    return parsed_number(text, float, lambda number: 0 <= number < 1, "a number from 0 to below 1")


def _count(text: str) -> int:
    """Parse a whole number of 0 or more."""
    return parsed_number(text, int, lambda number: number >= 0, "a whole number of 0 or more")
