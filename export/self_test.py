"""python -m export.self_test: whether a bundle passes its self-test in a process that holds nothing yet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from runtime.classifier import Classifier, ClassifierOptions
from runtime.command_line import DONE, run_command
from runtime.errors import BackendError, reason_of

LONGEST_SECONDS = 600  # to load a large model on a small device
ERROR = "error: "  # how `run_command` begins the line for people


def self_test_apart(bundle: Path, backend: str, precision: str) -> str:
    """Open a bundle in a fresh process, as a service would; return what runs it.

    Raises BackendError where it fails its self-test or cannot be opened, however the process ends.
    """
    command = [sys.executable, "-X", "utf8", "-m", "export.self_test", str(bundle.absolute()), backend, precision]
    try:
        done = subprocess.run(
            command, capture_output=True, check=False, encoding="utf-8", errors="replace", timeout=LONGEST_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise BackendError(
            f"expected the self-test of {bundle} to end within {LONGEST_SECONDS} s, found it running; "
            "look whether the GPU or the CPUs are busy"
        ) from error
    except OSError as error:
        raise BackendError(
            f"expected to start a process that tests {bundle}, found: {reason_of(error)}; free memory, then try again"
        ) from error
    if done.returncode == DONE:
        return done.stdout.strip()
    said = (done.stderr.strip() or f"its process ended with code {done.returncode}").splitlines()[-1]
    raise BackendError(said.removeprefix(ERROR))


def main() -> int:
    """Run the self-test of the bundle, on the backend and in the precision that the command line names."""
    bundle, backend, precision = sys.argv[1:]
    with Classifier(ClassifierOptions(Path(bundle), backend, precision)) as classifier:
        print(classifier.description)
    return DONE


if __name__ == "__main__":
    run_command(main)
