"""The errors that the toolkit raises on purpose; each message is one line for the user.

AllnetError
├── UsageError          an option or an argument cannot be used
├── DataError           a folder or table of labelled cells is not what it should be
├── RunError            a run folder is missing, unfinished or does not fit
├── BundleError         a bundle is missing, damaged or of another version
├── BackendError        the inference asked for is not available on this machine
│   └── NotFiniteError  a model gave values that are not probabilities
├── ConversionError     a converted model does not decide like the one it came from
├── ClusterError        a cluster or an object store does not do its part
├── ServerError         a server does not answer, or not as agreed
├── MeasurementError    a benchmark cannot take what it measures
├── OutputError         a result cannot be written
└── UnreadableCellError one image cannot be used; costs its own row, never the run
    └── UnopenableCellError its file could not be read just now, whatever it holds

A message says what was expected, what was found and what to do. Everything else that is raised is a bug
and keeps its traceback.
"""


class AllnetError(Exception):
    """Base of all errors whose message is meant for the user."""


class UsageError(AllnetError):
    """An option or an argument cannot be used."""


class DataError(AllnetError):
    """A folder or table of labelled cells is not what it should be."""


class RunError(AllnetError):
    """A run folder is missing, unfinished or does not fit what was asked."""


class BundleError(AllnetError):
    """A bundle is missing, damaged or of another version."""


class BackendError(AllnetError):
    """The inference that was asked for is not available on this machine."""


class NotFiniteError(BackendError):
    """A model gave values that are not probabilities."""


class ConversionError(AllnetError):
    """A converted model does not decide like the model it came from."""


class ClusterError(AllnetError):
    """A cluster or an object store cannot be reached, or lost work for good."""


class ServerError(AllnetError):
    """A server cannot be reached, refuses, or answers with something else."""


class MeasurementError(AllnetError):
    """A benchmark cannot take what it measures: a process failed, or a difference is lost in the noise."""


class OutputError(AllnetError):
    """A result cannot be written where it was asked for."""


class UnreadableCellError(AllnetError):
    """One image cannot be used; the message is the `reason` column of its row."""


class UnopenableCellError(UnreadableCellError):
    """A file could not be read just now, such as one on a lost network share; it may hold a good cell."""

    BEGINNING = "cannot be opened"  # of each message, by which a row tells it from others

    def __init__(self, reason: object) -> None:
        super().__init__(f"{self.BEGINNING}: {reason}")


def one_line(error: BaseException) -> str:
    """Return what an error says as one line; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def reason_of(error: BaseException) -> str:
    """Return what the system says of an error, without the file's name; of another error what it says itself."""
    return str(getattr(error, "strerror", None) or error)
