"""The Keras model that a bundle came from."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from runtime.bundle import Bundle
from runtime.command_line import ArgumentParser
from runtime.errors import BundleError, reason_of
from runtime.files import sha256_of_file

BEST = "best.keras"  # of a run
RUNS = "runs"  # the folder of runs, as the commands of this toolkit's own documentation call it
FOLDERS_ABOVE = 5  # from the bundle on upwards in which its run is looked for


def add_run_argument(parser: ArgumentParser) -> None:
    """Add the option that names the run which `reference_file` is to take."""
    parser.add_argument(
        "--run",
        type=Path,
        metavar="RUN",
        help="default: searched for beside the bundle and in folders above, also in their runs",
    )


def reference_file(bundle: Bundle, run: Path | None) -> Path:
    """Return the Keras file that the bundle came from.

    A bundle holds the name of its run and no path, which could name a person or a ward. Without `run` that name is
    looked for beside the bundle and in the folders above it, there and in their folder `runs`, and only a run with the
    bundle's own model is taken.

    Raises BundleError where the file is not found, cannot be read, or is another one.
    """
    return _nearby_file(bundle) if run is None else _given_file(bundle, run)


def _given_file(bundle: Bundle, run: Path) -> Path:
    file = run / BEST
    try:
        found = sha256_of_file(file)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise BundleError(
            f"expected the Keras model of the bundle at {file}, found none; give its run folder with --run"
        ) from error
    except OSError as error:
        raise BundleError(
            f"cannot read the Keras model of the bundle at {file}: {reason_of(error)}; make it readable, or "
            "give its run folder with --run"
        ) from error
    expected = bundle.manifest.training.keras_sha256
    if found != expected:
        raise BundleError(
            f"expected {file} to have the SHA-256 {expected[:12]}…, found {found[:12]}…: the bundle came "
            "from another run; name that one with --run, or export this one again"
        )
    return file


def _nearby_file(bundle: Bundle) -> Path:
    training = bundle.manifest.training
    name = PurePosixPath(training.run).name
    folders = bundle.folder.resolve().parents[:FOLDERS_ABOVE]
    others = []
    for file in (folder / run / BEST for folder in folders for run in (name, f"{RUNS}/{name}")):
        found = _sha256_if_readable(file)
        if found == training.keras_sha256:
            return file
        if found is not None:
            others.append(file)
    raise BundleError(
        f"expected the Keras model of the bundle in {name} or {RUNS}/{name} in {folders[0]} or above it up to "
        f"{folders[-1]}, found {f'another model at {others[0]}' if others else 'none'}; give its run folder with --run"
    )


def _sha256_if_readable(file: Path) -> str | None:
    """Return the SHA-256 of a file; None where there is none, or where it is not ours to read."""
    try:
        return sha256_of_file(file)
    except OSError:
        return None
