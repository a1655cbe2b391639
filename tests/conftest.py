"""Fixtures that several packages' tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from runtime.demo import demo_cells

REAL_CELLS = Path(__file__).parents[2] / "shared" / "cnmc"


@pytest.fixture(scope="session")
def real_cells() -> Path:
    """The folder with cells of the C-NMC 2019 release, which are not part of the project."""
    if not REAL_CELLS.is_dir():
        pytest.skip("the real C-NMC cells are not at hand (expected beside the project in shared/cnmc)")
    return REAL_CELLS


@pytest.fixture
def cell_file(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes one drawn cell under a name; the suffix decides the format."""

    def write(name: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(demo_cells()[0]) as image:
            image.save(path)
        return path

    return write
