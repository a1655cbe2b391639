"""The Keras model that a bundle came from."""

from __future__ import annotations

from pathlib import Path

from runtime.bundle import Bundle
from runtime.errors import BundleError
from runtime.files import sha256_of_file


def reference_file(bundle: Bundle, run: Path | None) -> Path:
    """Return the Keras file that the bundle came from; raise BundleError where it is not at hand or another one."""
    training = bundle.manifest.training
    file = (run or bundle.folder.resolve() / training.run) / "best.keras"
    try:
        found = sha256_of_file(file)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise BundleError(
            f"expected the Keras model of the bundle at {file}, found none; give its run folder with --run"
        ) from error
    except OSError as error:
        raise BundleError(
            f"cannot read the Keras model of the bundle at {file}: {error.strerror or error}; make it readable, or "
            "give its run folder with --run"
        ) from error
    if found != training.keras_sha256:
        raise BundleError(
            f"expected {file} to have the SHA-256 {training.keras_sha256[:12]}…, found {found[:12]}…: the bundle came "
            "from another run; name that one with --run, or export this one again"
        )
    return file
