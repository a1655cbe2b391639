"""Results tables: CSV and JSON lines, written row by row under a temporary name."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from runtime.errors import OutputError, UsageError
from runtime.files import output_errors
from runtime.schema import Prediction

if TYPE_CHECKING:
    from typing_extensions import Self

COLUMNS = tuple(field.name for field in fields(Prediction))
FORMATS = (".csv", ".jsonl")


class ResultsWriter:
    """Writes predictions to a stream as CSV with a header, or as JSON lines."""

    def __init__(self, stream: TextIO, suffix: str) -> None:
        self._stream = stream
        self._csv = csv.writer(stream, lineterminator="\n") if suffix == ".csv" else None
        if self._csv:
            self._csv.writerow(COLUMNS)

    def write(self, prediction: Prediction) -> None:
        """Append one row."""
        row = asdict(prediction)
        row["seconds"] = round(prediction.seconds, 6)
        if self._csv:
            row["p_all"] = "" if prediction.p_all is None else f"{prediction.p_all:.6f}"
            self._csv.writerow(row.values())
        else:
            self._stream.write(json.dumps(row) + "\n")


class LiveResults:
    """CSV on standard output, each row handed over at once."""

    def __init__(self) -> None:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
        with _stdout_errors():
            self._writer = ResultsWriter(sys.stdout, ".csv")

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


def partial_path(path: Path) -> Path:
    """Return the name that a results file bears until it is complete."""
    return path.with_name(path.name + ".partial")


class ResultsFile:
    """A results file that bears its name only when it is complete.

    Rows go to `<name>.partial` beside it. After an interruption that file stays, with every row that was written.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix not in FORMATS:
            raise UsageError(f"expected an output name ending in {' or '.join(FORMATS)}, received {path.name!r}")
        self.path = path
        self.partial_path = partial_path(path)
        with output_errors(path):
            if path.is_dir():
                raise OutputError(f"expected a file name for the results, found the folder {path}")
            path.parent.mkdir(parents=True, exist_ok=True)
            # A name may hold bytes that are not UTF-8; they are written back as they were read.
            self._stream = self.partial_path.open("w", encoding="utf-8", errors="surrogateescape", newline="")
        self._writer = ResultsWriter(self._stream, path.suffix)

    def write(self, prediction: Prediction) -> None:
        """Append one row."""
        with output_errors(self.partial_path):
            self._writer.write(prediction)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with output_errors(self.path):
            self._stream.close()
            if kind is None:
                self.partial_path.replace(self.path)
