"""What the command lines of all packages share: exit codes, one-line errors, checked arguments."""

from __future__ import annotations

import _thread
import argparse
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, NoReturn, TextIO, TypeVar

from runtime.cell_names import printable
from runtime.errors import AllnetError
from runtime.table_text import column_texts

DONE = 0
REFUSED = 1  # a usage or data error: nothing was produced
PARTLY_DONE = 2  # finished, but some inputs could not be used
LARGEST_BATCH = 1024  # cells; a typing error must not ask for all memory

Number = TypeVar("Number", int, float)

UNREACHABLE = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG)  # raised by `Path.exists` and the like
STANDARD_ERROR = 2  # its file descriptor
INTERRUPTED = 130  # the shells' code for Ctrl-C: 128 + SIGINT
TERMINATED = 143  # 128 + SIGTERM
SECONDS_TO_COME_AGAIN = 0.1

# Modules that the base does not install, and what to give pip for each: an extra, or a backend chosen for Keras.
MODULE_TO_REQUIREMENT = {
    **dict.fromkeys(
        ("cv2", "filelock", "h5py", "imagehash", "keras", "sklearn", "tensorboardX", "tensorflow"), '-e ".[train]"'
    ),
    **dict.fromkeys(("matplotlib", "scipy"), '-e ".[train]"; to measure, -e ".[benchmarks]" is enough'),
    **dict.fromkeys(("google", "google.protobuf", "onnx", "tf2onnx"), '-e ".[export]"'),
    "onnxruntime": '-e ".[cpu]", or -e ".[gpu]"',
    **dict.fromkeys(
        ("anyio", "fastapi", "httptools", "prometheus_client", "python_multipart", "starlette", "uvicorn"),
        '-e ".[serve]"',
    ),
    **dict.fromkeys(("gevent", "tritonclient"), '-e ".[client]"'),
    "cryptography": '-e ".[fleet]"',
    **dict.fromkeys(("fsspec", "pyarrow", "ray"), '-e ".[cluster]"'),
    **dict.fromkeys(("psutil", "tomli"), '-e ".[benchmarks]"'),
    "jax": "jax",
    "torch": "torch",
}


class ArgumentParser(argparse.ArgumentParser):
    """argparse with exit code 1 for a wrong command line: here 2 means something else."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with code 1."""
        print(f"{self.prog}: {printable(message)} (--help lists the options)", file=sys.stderr)
        raise SystemExit(REFUSED)


def import_quietly() -> None:
    """Let Ctrl-C and a missing library end the process in one line, until `run_command`; called before imports."""
    sys.excepthook = _tell_import_error
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as in a background job
        signal.signal(signal.SIGINT, _end_at_once)


def run_command(command: Callable[[], int]) -> NoReturn:
    """Run `command` and exit with the code it returns; print an expected error as one line, without a traceback."""
    signal.signal(signal.SIGTERM, _terminated)
    if signal.getsignal(signal.SIGINT) is _end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _prepare_streams()
    try:
        with _dropped_interrupts_come_again():
            code = command()
        if sys.stdout:
            sys.stdout.flush()
    except AllnetError as error:
        tell(f"error: {printable(str(error))}")  # a file's name in it may hold a line break
        code = REFUSED
    except KeyboardInterrupt:
        tell("interrupted")
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        code = REFUSED
    except (ModuleNotFoundError, OSError) as error:
        message = _explained(error)
        if message is None:
            raise
        tell(f"error: {printable(message)}")
        code = REFUSED
    _forget_unwritable_output()
    raise SystemExit(code)


def _prepare_streams() -> None:
    if sys.stderr is None:  # closed by who started us; `print` would put what is for people among the results
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123  until the process ends
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a file's name may hold bytes that are not text


def _explained(error: ModuleNotFoundError | OSError) -> str | None:
    """Return what the user can do about an error that is no bug, None for one that is."""
    if isinstance(error, ModuleNotFoundError):
        needed = MODULE_TO_REQUIREMENT.get(error.name or "")
        return f"expected {error.name} for this command, found none; pip install {needed}" if needed else None
    if error.errno in UNREACHABLE and error.filename:
        name = os.fsdecode(error.filename)
        return (
            f"expected a place that can be reached at {name}, found: {error.strerror}; check its name and permissions"
        )
    if error.errno == errno.ENOSPC and not error.filename:
        if _is_full(sys.stdout):
            return f"cannot write to standard output: {error.strerror}"
        return f"expected room on the disk for what is written, found none ({error.strerror}); free some and try again"
    return None


def _is_full(stream: TextIO | None) -> bool:
    """Say whether a stream can take no more text."""
    try:
        if stream:
            stream.flush()
        if getattr(stream, "write_through", False):  # under PYTHONUNBUFFERED nothing was held back to be flushed
            print(file=stream)
    except OSError:
        return True
    return False


def _forget_unwritable_output() -> None:
    """Drop what a standard stream cannot write: otherwise Python complains on exit, with an exit code of its own."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream:
                stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _tell_import_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    message = _explained(error) if isinstance(error, ModuleNotFoundError) else None
    if message is None:
        sys.__excepthook__(kind, error, trace)
    else:
        print(f"error: {message}", file=sys.stderr)


def _end_at_once(*_: object) -> NoReturn:
    """End without an exception: in the middle of an import, libraries turn one into errors of their own."""
    with suppress(OSError):  # closed
        os.write(STANDARD_ERROR, b"interrupted\n")
    os._exit(INTERRUPTED)


def _terminated(*_: object) -> NoReturn:
    """Unwind the stack on SIGTERM, so that what was begun is cleared away."""
    raise SystemExit(TERMINATED)


@contextmanager
def _dropped_interrupts_come_again() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM come again where Python drops what they raise, as while an object is deleted."""
    tell_dropped = sys.unraisablehook

    def come_again(dropped: sys.UnraisableHookArgs) -> None:
        if dropped.exc_type is KeyboardInterrupt:
            number = signal.SIGINT
        elif isinstance(dropped.exc_value, SystemExit) and dropped.exc_value.code == TERMINATED:
            number = signal.SIGTERM
        else:
            tell_dropped(dropped)
            return
        again = threading.Timer(SECONDS_TO_COME_AGAIN, _signal_ourselves, (number,))  # here it would be dropped too
        again.daemon = True
        again.start()

    sys.unraisablehook = come_again
    try:
        yield
    finally:
        sys.unraisablehook = tell_dropped


def _signal_ourselves(number: signal.Signals) -> None:
    if os.name == "nt":  # where `os.kill` ends a process at once
        _thread.interrupt_main(number)
    else:
        os.kill(os.getpid(), number)


def positive_int(text: str) -> int:
    """Parse a whole number of 1 or more."""
    return parsed_number(text, int, lambda number: number >= 1, "a whole number of 1 or more")


def batch_size(text: str) -> int:
    """Parse a whole number from 1 to LARGEST_BATCH."""
    number = positive_int(text)
    if number > LARGEST_BATCH:
        raise argparse.ArgumentTypeError(f"expected at most {LARGEST_BATCH}, received {text}")
    return number


def probability(text: str) -> float:
    """Parse a number from 0 to 1."""
    return parsed_number(text, float, lambda number: 0 <= number <= 1, "a number from 0 to 1, such as 0.5")


def positive_float(text: str) -> float:
    """Parse a number above 0."""
    return parsed_number(text, float, lambda number: 0 < number < float("inf"), "a number above 0")


def parsed_number(text: str, kind: Callable[[str], Number], fits: Callable[[Number], bool], expected: str) -> Number:
    """Parse a number; raise ArgumentTypeError where the text is not one or it does not fit."""
    with suppress(ValueError):
        number = kind(text)
        if fits(number):
            return number
    raise argparse.ArgumentTypeError(f"expected {expected}, received {text}")


def tell(line: str) -> None:
    """Print a line for people to standard error: standard output is for tables.

    Where it cannot be written, as to a log on a full disk, the work goes on without it.
    """
    with suppress(OSError):
        print(line, file=sys.stderr)


def print_table(rows: Sequence[Mapping[str, Any]], stream: TextIO | None = None) -> None:
    """Print rows that share their keys as a table; numbers to the right, text to the left; None: standard output."""
    columns = [_aligned(name, [row[name] for row in rows]) for name in rows[0]]
    for line in zip(*columns, strict=True):
        print("  ".join(line).rstrip(), file=stream)


def _aligned(name: str, values: Sequence[object]) -> list[str]:
    """Return a column with its heading as texts of one width."""
    texts = [name, *column_texts(values)]
    width = max(map(len, texts))
    is_number = any(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return [text.rjust(width) if is_number else text.ljust(width) for text in texts]
