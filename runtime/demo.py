"""The drawn cells that come with the package."""

from __future__ import annotations

from pathlib import Path

DEMO_CELLS = Path(__file__).parent / "demo_cells"


def demo_cells() -> list[Path]:
    """Return the files of the drawn cells, sorted by name; they are drawings, not photographs."""
    return sorted(DEMO_CELLS.glob("*/*.png"))
