"""The cells that a measurement runs on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from runtime.demo import demo_cells
from runtime.inputs import find_inputs


@contextmanager
def bmp_cells() -> Iterator[list[str]]:
    """Yield the package's drawn cells as 450x450 BMP files, the format of the release, in a temporary folder."""
    with TemporaryDirectory() as folder:
        for path in demo_cells():
            with Image.open(path) as image:
                image.save(Path(folder) / f"{path.stem}.bmp")
        yield list(find_inputs([folder]).paths)
