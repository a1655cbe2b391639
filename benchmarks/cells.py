"""The cells that a measurement runs on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from runtime.demo import demo_cells
from runtime.inputs import find_inputs, spread_over


@contextmanager
def given_or_drawn(data: Path | None, limit: int) -> Iterator[list[str]]:
    """Yield at most `limit` of the images of `data`, spread over them; without `data`, of `bmp_cells`."""
    with nullcontext(find_inputs([str(data)]).paths) if data else bmp_cells() as paths:
        yield spread_over(paths, limit)


@contextmanager
def bmp_cells() -> Iterator[list[str]]:
    """Yield the package's drawn cells as 450x450 BMP files, the format of the release, in a temporary folder."""
    with TemporaryDirectory() as folder:
        for path in demo_cells():
            with Image.open(path) as image:
                image.save(Path(folder) / f"{path.stem}.bmp")
        yield list(find_inputs([folder]).paths)


def linked_cells(folder: Path, files: Sequence[str], count: int) -> Path:
    """Make and return a folder of `count` names of the files, in turns: each is a cell of its own and takes no disk.

    The names are symbolic links: a further hard link changes the file itself, and `runtime.watch` would read it again
    under each of its names.
    """
    folder.mkdir()
    for index, file in enumerate(islice(cycle(files), count)):
        (folder / f"{index:07}{Path(file).suffix}").symlink_to(Path(file).absolute())
    return folder


def repeated_for(seconds: float, paths: Sequence[str], clock: Callable[[], float] = time.perf_counter) -> Iterator[str]:
    """Yield the paths over and over until the time is over, one of them in any case."""
    began = clock()
    for path in cycle(paths):
        yield path
        if clock() - began >= seconds:
            return
