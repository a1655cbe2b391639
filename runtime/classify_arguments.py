"""The command line of classify: what can be said, what goes together, and which files it names."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from runtime.classifier_arguments import add_classifier_arguments
from runtime.command_line import ArgumentParser, positive_int
from runtime.contact_sheet import MOST_SHOWN, check_page_name
from runtime.demo import DEMO_CELLS
from runtime.errors import UsageError
from runtime.explanation_folder import INDEX
from runtime.groups import DEFAULT_MIN_CELLS, GROUPINGS, groups_path
from runtime.inputs import STANDARD_INPUT, Inputs, find_inputs, read_list
from runtime.results import check_results_name


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        prog="python -m runtime.classify",
        description="Classify images of single white blood cells as ALL or healthy. For research, not a diagnosis.",
        epilog="Exit codes: 0 all files read; 1 refused, or ended by an error; 2 finished, but some files could "
        "not be read, or the roll-up, the page or a heat map could not be written.",
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", help="image, folder with its sub-folders, or pattern")
    parser.add_argument("--list", metavar="FILE", help="each line is a path, with # too; - for standard input")
    parser.add_argument(
        "--include", action="append", default=[], metavar="PATTERN", help="of folders take these names, such as '*.bmp'"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help=".csv or .jsonl; default: CSV on standard output")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the --out of a run that was cut off; images that changed after it began, or are other ones "
        "now, are classified anew",
    )
    parser.add_argument(
        "--audit", action="store_true", help="add to each row the image's SHA-256, the time, and what classified it"
    )
    parser.add_argument(
        "--group-by",
        choices=GROUPINGS,
        help="roll the cells up by the subject in their C-NMC names, or by folder: a table after the run, and with "
        "--out results.csv the file results.subjects.csv or results.folders.csv beside it",
    )
    parser.add_argument(
        "--min-cells",
        type=positive_int,
        metavar="N",
        help=f"with --group-by: give no share of ALL for a group of fewer cells; default: {DEFAULT_MIN_CELLS}",
    )
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help=f".html: one page with a picture of each cell, sorted by p_all; of {MOST_SHOWN} where there are more",
    )
    parser.add_argument(
        "--explain",
        type=Path,
        metavar="DIR",
        help="a picture for each cell of which places its answer comes from, and an index.csv of them",
    )
    add_classifier_arguments(parser)
    parser.add_argument("--demo", action="store_true", help="classify the drawn cells that come with the package")
    return parser


def check_outputs(options: argparse.Namespace) -> None:
    """Raise UsageError or OutputError where what is to be written cannot be, or would be of no use."""
    if options.out:
        check_results_name(options.out)
    elif options.resume:
        raise UsageError("expected the --out of the run that was cut off for --resume, received none")
    if options.html:
        check_page_name(options.html)
    refuse_same_places(options)
    if options.min_cells and not options.group_by:
        raise UsageError("expected --group-by with --min-cells, received none; add --group-by subject, or folder")


def refuse_same_places(options: argparse.Namespace) -> None:
    """Raise UsageError where one output, or the list of paths, would be lost under another output."""
    is_rolled_up = options.out and options.group_by
    name_to_path = {
        "--list": options.list if options.list != STANDARD_INPUT else None,
        "--out": options.out,
        "the roll-up beside --out": groups_path(options.out, options.group_by) if is_rolled_up else None,
        "--html": options.html,
        "--explain": options.explain,
        f"{INDEX} of --explain": options.explain / INDEX if options.explain else None,
    }
    place_to_name: dict[str, str] = {}
    for name, path in name_to_path.items():
        other = place_to_name.setdefault(os.path.realpath(path), name) if path else name
        if other != name:
            raise UsageError(f"expected another place for {other} than for {name}, received {path}; choose another")


def requested_inputs(options: argparse.Namespace) -> Inputs:
    """Return the files that the command line names, or the drawn cells for --demo."""
    if options.demo and (options.paths or options.list is not None):
        raise UsageError("expected either --demo or paths, received both; choose one")
    if options.demo:
        return find_inputs([str(DEMO_CELLS)])
    if not options.paths and options.list is None:
        raise UsageError("expected an image or a folder of images, received no path; or try --demo")
    return find_inputs(options.paths, read_list(options.list) if options.list is not None else (), options.include)
