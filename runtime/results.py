"""Results tables: CSV and JSON lines, written row by row under a temporary name."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from runtime.errors import OutputError, UsageError
from runtime.files import CsvWriter, give_usual_permissions, output_errors, output_place
from runtime.locks import try_lock
from runtime.schema import Audit, Prediction
from runtime.unfinished import PARTIAL, Row, Source, UnfinishedResults, partial_prefix, sources_path

if TYPE_CHECKING:
    from typing_extensions import Self

COLUMNS = tuple(field.name for field in fields(Prediction) if field.name not in ("audit", "identity", "appearance"))
AUDIT_COLUMNS = tuple(field.name for field in fields(Audit))
FORMATS = (".csv", ".jsonl")
P_ALL_DIGITS = 6  # further digits depend on how many cells are inferred together


def check_results_name(path: Path) -> None:
    """Raise UsageError or OutputError where `path` cannot be the name of a results file."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"expected an output name ending in {' or '.join(FORMATS)}, received {path.name!r}")
    output_place(path)


def columns(*, audited: bool) -> tuple[str, ...]:
    """Return the columns of a table, with those of the audit where it is asked for."""
    return (*COLUMNS, *AUDIT_COLUMNS) if audited else COLUMNS


def row_of(prediction: Prediction) -> Row:
    """Return a prediction by column, with the columns of its audit where it has one."""
    row: Row = {column: getattr(prediction, column) for column in COLUMNS}
    row["seconds"] = round(prediction.seconds, 6)
    if prediction.p_all is not None:
        row["p_all"] = round(prediction.p_all, P_ALL_DIGITS)
    return {**row, **asdict(prediction.audit)} if prediction.audit else row


def prediction_of(row: Row, source: Source) -> Prediction:
    """Return what a row of a table says of its file, without its audit."""
    p_all = None if row["p_all"] in ("", None) else float(row["p_all"])
    seconds = float(row["seconds"])
    return Prediction(row["path"], row["label"], p_all, row["status"], row["reason"], seconds, None, *source)


class ResultsWriter:
    """Writes predictions to a stream as CSV with a header, or as JSON lines."""

    def __init__(self, stream: TextIO, suffix: str, *, audited: bool = False) -> None:
        self._stream = stream
        self._csv = CsvWriter(stream) if suffix == ".csv" else None
        if self._csv:
            self._csv.write(columns(audited=audited))

    def write(self, prediction: Prediction) -> None:
        """Append one prediction."""
        row = row_of(prediction)
        if self._csv:
            row["p_all"] = "" if prediction.p_all is None else f"{prediction.p_all:.{P_ALL_DIGITS}f}"
        self.write_row(row)

    def write_row(self, row: Row) -> None:
        """Append one row as it stands in a table of this kind."""
        if self._csv:
            self._csv.write(row.values())
        else:
            self._stream.write(json.dumps(row) + "\n")


def standard_output() -> TextIO:
    """Return standard output for a table, in which names that are not UTF-8 keep their bytes.

    Raises OutputError where it is closed.
    """
    if sys.stdout is None:
        raise OutputError("expected a standard output for the results, found it closed; use --out")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    return sys.stdout


class LiveResults:
    """CSV on standard output, each row handed over at once."""

    def __init__(self, *, audited: bool = False) -> None:
        stream = standard_output()
        with _stdout_errors():
            self._writer = ResultsWriter(stream, ".csv", audited=audited)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: each row was handed over when it was written."""

    def write(self, prediction: Prediction) -> None:
        """Append one row; raise BrokenPipeError where the reader has gone, OutputError where it cannot be written."""
        with _stdout_errors():
            self._writer.write(prediction)
            sys.stdout.flush()


@contextmanager
def _stdout_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write to standard output: {error.strerror}; use --out") from error


class ResultsFile:
    """A results file that bears its name only when it is complete.

    Rows go to `<name>.<run>.<began>.<random>.partial` beside it, so that two runs never write into one file. After
    an interruption that file stays, with every row that was written, where another run can continue it. A second file
    says which file each row is of, a line for each row; without it no row would be kept.
    """

    def __init__(self, path: Path, *, run: str = "", audited: bool = False) -> None:
        """Begin a file; `run` stands for all that decides what a row says: an equal one can continue it."""
        check_results_name(path)
        self.path = place = output_place(path)
        self._can_go_on = bool(run)
        self._taken_over: list[Path] = []
        with output_errors(path):
            place.parent.mkdir(parents=True, exist_ok=True)
            prefix = partial_prefix(place, run or "run")
            handle, name = tempfile.mkstemp(prefix=prefix, suffix=PARTIAL, dir=place.parent)
            self.partial_path = Path(name)
            give_usual_permissions(self.partial_path)
            # Line by line: what ends the process at once leaves every row that was written.
            # A name may hold bytes that are not UTF-8; they are written back as they were read.
            stream = os.fdopen(handle, "w", 1, encoding="utf-8", errors="surrogateescape", newline="")
            self._streams = ExitStack()
            self._stream = self._streams.enter_context(stream)
            try:
                try_lock(stream)
                sources = sources_path(self.partial_path).open("w", encoding="ascii", newline="", buffering=1)
                self._sources = self._streams.enter_context(sources)
                self._writer = ResultsWriter(stream, path.suffix.lower(), audited=audited)
            except OSError:  # on a full disk, or where the second name is too long
                self._remove()
                raise

    def write(self, prediction: Prediction) -> None:
        """Append one row."""
        with self._errors():
            self._sources.write(Source(prediction.identity, prediction.appearance).line)
            self._writer.write(prediction)

    def take_over(self, unfinished: UnfinishedResults) -> Iterator[Prediction]:
        """Append the rows that a cut-off run left, yielding each; its own file goes when this one is complete."""
        with self._errors():
            for row, source in unfinished.rows():
                self._sources.write(source.line)
                self._writer.write_row(row)
                yield prediction_of(row, source)
        self._taken_over += [unfinished.path, *unfinished.others]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._errors():
            try:
                with self._streams:  # closes, and so unlocks, even what cannot be flushed
                    if kind is None:
                        self._stream.flush()
                        os.fsync(self._stream.fileno())  # a power cut must not leave the name without the rows
                if kind is None:
                    self.partial_path.replace(self.path)
                    for path in (*self._taken_over, *map(sources_path, (self.partial_path, *self._taken_over))):
                        path.unlink(missing_ok=True)
            finally:
                if not self._can_go_on:
                    self._remove()

    def _remove(self) -> None:
        """Remove the temporary files: those of a table that no run can continue would be left for ever."""
        with suppress(OSError):  # of what could not be flushed
            self._streams.close()
        for path in (self.partial_path, sources_path(self.partial_path)):
            with suppress(OSError):  # not there, nor could it be under so long a name
                path.unlink()

    def _errors(self) -> AbstractContextManager[None]:
        """Turn operating-system errors into one that says what becomes of the rows already written."""
        if not self._can_go_on:
            return output_errors(self.path)
        kept = f"the rows so far are kept in {self.partial_path.name}: continue with --resume once it can be written"
        return output_errors(self.path, kept)
