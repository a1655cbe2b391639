"""Opens a bundle: reads its manifest strictly and refuses it unless every file has the recorded hash."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.errors import BundleError, reason_of
from runtime.files import sha256_of_file
from runtime.schema import (
    CARD_NAME,
    GOLDEN_NAME,
    MANIFEST_NAME,
    NEW_CARD_NAME,
    Manifest,
    Variant,
    manifest_from_json,
    seal_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEFAULT_BUNDLE = Path(__file__).parent / "default_bundle"


@dataclass(frozen=True)
class Golden:
    """Cells with the probabilities that the Keras model and each variant gave them when they were exported."""

    cells: NDArray[np.uint8]  # [N, height, width, 3]
    p_all: dict[str, NDArray[np.float32]]  # [N], by precision, and the Keras model's under "keras"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder, its manifest and its card."""

    folder: Path
    manifest: Manifest
    card: bytes  # Markdown, kept: its file may go away while a service runs

    @cached_property  # each row of an audit bears it
    def content_sha256(self) -> str:
        """Hash of what the manifest holds, including the hashes of all files: it identifies this very bundle."""
        return seal_of(asdict(self.manifest))

    @classmethod
    def open(cls, folder: Path) -> Bundle:
        """Read a bundle's manifest and check the hash of every file that it names.

        A link is followed once, here: all files are then of one bundle, wherever an installation lets the link lead.

        Raises BundleError where there is none, where it is not of this schema, and where a file is missing or changed.
        """
        with reading_errors(folder):
            folder = folder.resolve() if folder.is_symlink() else folder
        path = folder / MANIFEST_NAME
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise BundleError(
                f"expected a bundle with a {MANIFEST_NAME} at {folder}, found none that can be read "
                f"({reason_of(error)}); make one with `python -m export onnx`"
            ) from error
        manifest = manifest_from_json(text, str(path))
        with ThreadPoolExecutor() as pool:  # hashing leaves the interpreter free
            list(pool.map(lambda each: _refuse_another_file(folder, each.file, each.sha256), manifest.variants))
        _refuse_another_file(folder, GOLDEN_NAME, manifest.golden_sha256)
        return cls(folder, manifest, _card(folder, manifest.card_sha256))

    def variant(self, precision: str) -> Variant:
        """Return the variant of that precision; raise BundleError where the bundle has none."""
        for variant in self.manifest.variants:
            if variant.precision == precision:
                return variant
        held = ", ".join(variant.precision for variant in self.manifest.variants)
        raise BundleError(f"expected a variant of precision {precision} in {self.folder}, found {held or 'none'}")

    def path(self, variant: Variant) -> Path:
        """Return the path of the variant's model file."""
        return self.folder / variant.file

    def served_name(self, precision: str) -> str:
        """Return the name under which an inference server offers the variant of that precision."""
        return f"{self.manifest.training.config.options.model}_{precision}"

    def golden(self) -> Golden:
        """Load the golden cells; raise BundleError where the file does not hold what it should."""
        path = self.folder / GOLDEN_NAME
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
                p_all = {name: arrays[name] for name in arrays.files}
                golden = Golden(p_all.pop("cells"), p_all)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise BundleError(f"expected golden cells in {path}, found: {error}; export the bundle again") from error
        image = self.manifest.image
        found: dict[str, NDArray[Any]] = {"cells": golden.cells, **golden.p_all}
        shape = (len(golden.cells), image.height, image.width, 3) if golden.cells.ndim else ()
        expected: dict[str, tuple[object, tuple[int, ...]]] = {"cells": (np.dtype(np.uint8), shape)}
        for name in ("keras", *(variant.precision for variant in self.manifest.variants)):
            expected[name] = (np.dtype(np.float32), shape[:1])
        if not shape or {name: (array.dtype, array.shape) for name, array in found.items()} != expected:
            raise BundleError(
                f"expected golden cells uint8 [N, {image.height}, {image.width}, 3] in {path}, with p_all float32 [N] "
                f"of {', '.join(list(expected)[1:])}, found "
                + ", ".join(f"{name} {array.dtype} {list(array.shape)}" for name, array in found.items())
                + "; export the bundle again"
            )
        return golden


def refuse_unproved(bundle: Bundle, variant: Variant, way_out: str = "take it all the same with --unproved") -> None:
    """Raise BundleError where the variant was not proved to decide like the Keras model."""
    if not variant.proof.passed:
        raise BundleError(
            f"expected a variant that is proved to decide like the Keras model, but {variant.precision} of "
            f"{bundle.folder} is not: {'; '.join(variant.proof.failures)} (on {variant.proof.cells} cells, "
            f"{variant.proof.data}); choose another --precision, or {way_out}"
        )


def _card(folder: Path, sha256: str) -> bytes:
    """Return the card of that hash: the new one, if a new verdict was cut off before its card replaced the old one."""
    new = folder / NEW_CARD_NAME
    with reading_errors(new):
        name = NEW_CARD_NAME if new.is_file() and sha256_of_file(new) == sha256 else CARD_NAME
    _refuse_another_file(folder, name, sha256)
    return read_bundle_file(folder / name)


def read_bundle_file(path: Path) -> bytes:
    """Return a file's content; raise BundleError where it cannot be read."""
    with reading_errors(path):
        return path.read_bytes()


@contextmanager
def reading_errors(path: Path) -> Iterator[None]:
    """Turn an operating-system error while `path` is being read into a BundleError that names it."""
    try:
        yield
    except OSError as error:
        raise BundleError(
            f"cannot read {path}: {reason_of(error)}; check the disk it lies on, or get the bundle again"
        ) from error


def _refuse_another_file(folder: Path, name: str, sha256: str) -> None:
    """Raise BundleError unless the folder holds a file of that name and hash."""
    path = folder / name
    with reading_errors(path):
        if Path(name).name != name or not path.is_file():
            raise BundleError(f"expected the file {name} in the bundle {folder}, found none; export it again")
        found = sha256_of_file(path)
    if found != sha256:
        raise BundleError(
            f"expected {path} to have the SHA-256 {sha256[:12]}…, found {found[:12]}…: the file was changed "
            "or damaged; copy the bundle again or export it again"
        )
