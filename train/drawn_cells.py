"""Draws cells like those of C-NMC 2019, for demos, tests and load; no photograph is involved.

Two classes with differences that a network can learn, after the look of the release: ALL cells are larger, paler,
with coarse chromatin and nucleoli; healthy ones are smaller, darker and smooth. Each subject has its own stain.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from runtime.files import output_errors
from runtime.folders import folder_written_aside
from train.dataset import in_parallel

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 450  # pixels, as in the release
MARKER = "DRAWN.md"
NOTICE = "# Drawn cells\n\nThese images were drawn by `python -m train draw`. They are no photographs of cells.\n"
SUBJECTS = {"all": ("1", "2", "3", "4", "5", "6"), "hem": ("H1", "H2", "H3")}
STAIN = (70.0, 30.0, 80.0)  # mean R, G, B of the release's cells
STAIN_SPREAD = 3.0  # between subjects


@dataclass(frozen=True)
class Look:
    """What a class looks like; lengths in pixels, brightness relative to the stain."""

    radius: float
    brightness: float
    grain: float  # amplitude of the chromatin's texture
    grain_size: int  # its length scale
    nucleoli: int  # at most


LOOKS = {
    "all": Look(radius=108, brightness=1.05, grain=0.08, grain_size=8, nucleoli=4),
    "hem": Look(radius=90, brightness=0.93, grain=0.05, grain_size=14, nucleoli=1),
}


def draw_cells(out: Path, count: int, *, seed: int = 0, suffix: str = ".bmp") -> None:
    """Write `count` drawn cells, two of three of them ALL, as out/{all,hem}/DRAWN_<subject>_<image>_1_<class>.

    The same seed gives the same pixels; a larger count only adds cells. An older folder of drawn cells is replaced.
    Raises OutputError where `out` is something else or cannot be written.
    """

    def draw(index: int) -> None:
        name = "hem" if index % 3 == 2 else "all"
        subject = SUBJECTS[name][(index // 3) % len(SUBJECTS[name])]
        path = folder / name / f"DRAWN_{subject}_{index + 1}_1_{name}{suffix}"
        Image.fromarray(drawn_cell(name, subject, np.random.default_rng([seed, index]), seed)).save(path)

    with folder_written_aside(out, MARKER, ("DRAWN_*",)) as folder, output_errors(out):
        for name in SUBJECTS:
            (folder / name).mkdir()
        (folder / MARKER).write_text(NOTICE, encoding="utf-8")
        in_parallel(draw, range(count), total=count, title="drawing")


def drawn_cell(name: str, subject: str, rng: np.random.Generator, seed: int) -> NDArray[np.uint8]:
    """Draw one cell of the class `name`, "all" or "hem", as uint8 RGB [450, 450, 3] on black."""
    look = LOOKS[name]
    stain = np.array(STAIN) + _stain_shift(subject, seed)
    center = SIDE / 2 + rng.normal(0, 3, 2)
    y, x = np.mgrid[:SIDE, :SIDE] - center[:, None, None]
    inside = np.hypot(x, y) < _outline(np.arctan2(y, x), look, rng)
    light = look.brightness * rng.normal(1, 0.04) + look.grain * _texture(look.grain_size, rng)
    light += 0.05 * _texture(40, rng)
    for _ in range(rng.integers(look.nucleoli + 1)):
        light += _spot(x, y, look.radius, rng)
    tint = np.stack([0.02 * _texture(60, rng) for _ in range(3)], axis=-1)
    pixels = stain * (light[..., None] + tint)
    return np.where(inside[..., None], np.clip(np.rint(pixels), 1, 255), 0).astype(np.uint8)


def _stain_shift(subject: str, seed: int) -> NDArray[np.float64]:
    own = [ord(character) for character in subject]
    return np.random.default_rng([seed, *own]).normal(0, STAIN_SPREAD, 3)


def _outline(angle: NDArray[np.float64], look: Look, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the radius at each angle: a circle with a few slow waves."""
    radius: NDArray[np.float64] = np.ones_like(angle)
    for waves in range(2, 7):
        radius += rng.normal(0, 0.08 / waves) * np.cos(waves * angle + rng.uniform(0, 2 * np.pi))
    radius *= look.radius * rng.normal(1, 0.06)
    return radius


def _texture(length: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return smooth noise [450, 450] of mean 0 and deviation near 1 with the given length scale."""
    coarse = rng.normal(0, 1, (SIDE // length + 2,) * 2).astype(np.float32)
    smooth = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(smooth, dtype=np.float64)


def _spot(
    x: NDArray[np.float64], y: NDArray[np.float64], radius: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return a nucleolus: a soft pale spot somewhere in the cell."""
    at_x, at_y = rng.uniform(-0.5, 0.5, 2) * radius
    size = rng.uniform(8, 14)
    spot: NDArray[np.float64] = 0.3 * np.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / (2 * size**2))
    return spot
