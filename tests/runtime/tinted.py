"""Cells under another lamp."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def tinted(source: Path, path: Path, gains: tuple[float, float, float]) -> str:
    """Write a picture with its red, green and blue multiplied by `gains`; return its path."""
    with Image.open(source) as image:
        pixels = np.asarray(image.convert("RGB"))
    Image.fromarray(np.clip(pixels * np.array(gains), 0, 255).astype(np.uint8)).save(path)
    return str(path)
