"""python -m runtime.ask: images in, probabilities out, from a model that a server holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

from runtime.command_line import DONE, PARTLY_DONE, ArgumentParser, batch_size, run_command, tell
from runtime.errors import UnreadableCellError, UsageError
from runtime.files import CsvWriter, output_place, text_written_aside
from runtime.inputs import find_inputs
from runtime.outcomes import nouns
from runtime.preprocessing import load_cell
from runtime.progress import with_progress
from runtime.results import P_ALL_DIGITS, standard_output
from runtime.schema import ImageSpec
from runtime.token_file import add_token_argument, find_token

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runtime.served_model import ServedModel

COLUMNS = ("path", "p_all", "reason")
DEFAULT_BATCH_SIZE = 8
SUFFIX = ".csv"


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        prog="python -m runtime.ask",
        description="Ask a model of a Triton server, or of runtime.serve, for the probability that cells are leukemic "
        "(ALL). For research, not a diagnosis.",
        epilog="Exit codes: 0 all files were read and answered; 1 the server did not answer; 2 finished, but some "
        "files could not be read.",
    )
    parser.add_argument("url", metavar="URL", help="such as http://127.0.0.1:8000")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="image, folder with its sub-folders, or pattern")
    parser.add_argument("--model", required=True, metavar="NAME", help="network and precision, such as compact_fp32")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="default: standard output")
    parser.add_argument("--batch-size", type=batch_size, default=DEFAULT_BATCH_SIZE, metavar="N", help="in a request")
    add_token_argument(parser)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Ask for all files; return the exit code."""
    options = build_parser().parse_args(arguments)
    if options.out and options.out.suffix.lower() != SUFFIX:
        raise UsageError(f"expected an output name ending in {SUFFIX}, received {options.out.name!r}")
    if options.out:
        output_place(options.out)
    paths = find_inputs(options.paths).paths
    from runtime.served_model import ServedModel

    unreadable = 0
    with ServedModel(options.url, options.model, find_token(options.token_file)) as model, table(options.out) as stream:
        rows = CsvWriter(stream)
        rows.write(COLUMNS)
        table_on_terminal = not options.out and stream.isatty()  # where a bar would stand among its rows
        counted = paths if table_on_terminal else with_progress(paths, unit="cell")
        for path, p_all, reason in answers(model, counted, options.batch_size):
            rows.write((path, "" if p_all is None else f"{p_all:.{P_ALL_DIGITS}f}", reason))
            unreadable += p_all is None
    files = nouns(len(paths), "file")
    tell(
        f"{len(paths)} {files}, {unreadable} of them not readable; {options.model} at {options.url}, which "
        "gives p_all alone and says nothing about unusual pictures. For research, not a diagnosis."
    )
    return PARTLY_DONE if unreadable else DONE


def table(out: Path | None) -> AbstractContextManager[TextIO]:
    """Return where the rows go: a file that bears its name only when it is complete, or standard output."""
    return text_written_aside(output_place(out)) if out else nullcontext(standard_output())


def answers(model: ServedModel, paths: Iterable[str], batch_size: int) -> Iterator[tuple[str, float | None, str]]:
    """Yield for each path, in order, p_all, or None and why the file could not be read."""
    remaining = iter(paths)
    while batch := list(islice(remaining, batch_size)):
        read = [(path, *read_cell(path, model.image)) for path in batch]
        cells = [pixels for _, pixels, _ in read if pixels is not None]
        found = iter(model.infer(np.stack(cells)).tolist() if cells else [])
        for path, pixels, reason in read:
            yield path, None if pixels is None else next(found), reason


def read_cell(path: str, image: ImageSpec) -> tuple[NDArray[np.uint8] | None, str]:
    """Return a file's pixels as the model takes them, or None and why it has none."""
    try:
        return load_cell(path, image), ""
    except UnreadableCellError as error:
        return None, str(error)


if __name__ == "__main__":
    run_command(main)
