from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from runtime.resizing import resize_to_spec
from runtime.schema import ImageSpec


def picture(width: int, height: int, box: tuple[int, int, int, int]) -> Image.Image:
    """Return noise inside a box, black round it."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels = np.zeros_like(noise)
    left, upper, right, lower = box
    pixels[upper:lower, left:right] = noise[upper:lower, left:right]
    return Image.fromarray(pixels)


def resized_whole(image: Image.Image, spec: ImageSpec) -> Image.Image:
    """Pad and resize the whole picture, along the rows first."""
    side = max(image.size)
    square = Image.new("RGB", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    rows = square.resize((spec.width, side), Image.Resampling.BILINEAR)
    return rows.resize((spec.width, spec.height), Image.Resampling.BILINEAR)


def random_case(random: np.random.Generator, largest: int) -> tuple[Image.Image, ImageSpec]:
    width, height = (int(value) for value in random.integers(1, largest, 2))
    left, right = sorted(int(value) for value in random.integers(0, width + 1, 2))
    upper, lower = sorted(int(value) for value in random.integers(0, height + 1, 2))
    sizes = [128, 250, 64, int(random.integers(1, 200)), max(width, height)]
    spec = ImageSpec(int(random.choice(sizes)), int(random.choice(sizes)))
    return picture(width, height, (left, upper, right, lower)), spec


@pytest.mark.parametrize("largest", [8, 100, 600])
def test_leaving_out_the_black_frame_changes_no_pixel(largest: int) -> None:
    random = np.random.default_rng(largest)
    for _ in range(150):
        image, spec = random_case(random, largest)
        message = f"{image.size}, content {image.getbbox()}, to {spec.width}x{spec.height}"
        np.testing.assert_array_equal(resize_to_spec(image, spec), resized_whole(image, spec), message)


@pytest.mark.parametrize("place", [0, 1, 224, 448, 449])
def test_a_single_pixel_reaches_every_output_that_reads_it(place: int) -> None:
    image = picture(450, 450, (place, 449 - place, place + 1, 450 - place))
    for size in (128, 250, 450, 512, 1024):
        spec = ImageSpec(size, size)
        expected = image.resize((size, size), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(resize_to_spec(image, spec), expected)


def test_a_square_is_resized_as_by_pillows_own_resize() -> None:
    for side in (1, 2, 7, 90, 200, 450, 600):
        image = picture(side, side, (side // 4, side // 3, side - side // 4, side))
        for size in (96, 128, 250):
            expected = image.resize((size, size), Image.Resampling.BILINEAR)
            np.testing.assert_array_equal(resize_to_spec(image, ImageSpec(size, size)), expected)


def test_a_tall_cell_is_resized_along_its_rows_first_whatever_the_version_of_pillow() -> None:
    image = picture(450, 450, (220, 10, 228, 440))
    expected = image.resize((128, 128), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resize_to_spec(image, ImageSpec(128, 128)), expected)


def test_only_the_part_that_is_not_black_is_resized(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def note_size(self: Image.Image, *arguments: object) -> Image.Image:
        sizes.append(self.size)
        return resize(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "resize", note_size)
    resize_to_spec(picture(450, 450, (150, 150, 300, 300)), ImageSpec(128, 128))
    assert max(max(size) for size in sizes) < 180
