"""That damage in compressed pixels shows, and that no sound file is taken for a damaged one."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from runtime.demo import demo_cells
from runtime.errors import UnreadableCellError
from runtime.formats import jpeg
from runtime.formats.jpeg import scan_damage
from runtime.preprocessing import decode_picture
from tests.runtime.odd_images import encoded

KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "best quality": {"quality": 95, "subsampling": 0},
    "worst quality": {"quality": 5},
    "optimized": {"optimize": True},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3},
    "progressive with restarts": {"progressive": True, "restart_marker_rows": 1},
}


def drawn_cell(side: int) -> Image.Image:
    with Image.open(demo_cells()[0]) as image:
        return image.convert("RGB").resize((side, side))


def damage_of(data: bytes) -> str:
    with Image.open(io.BytesIO(data)) as image:
        return scan_damage(data, image)


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS.keys())
def test_a_sound_file_is_sound(options: dict[str, Any]) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 110, 3), dtype=np.uint8))
    pictures = [
        drawn_cell(450),
        drawn_cell(61),
        noise,
        *(Image.new("RGB", (size, 33), "black") for size in (1, 8, 200)),
    ]
    for picture in pictures:
        for mode in ("RGB", "L", "CMYK"):
            data = encoded(picture.convert(mode), "JPEG", **options)
            assert damage_of(data) == ""
            assert damage_of(data + b"\xff\xd9 anything \xff\xda") == ""


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS.keys())
def test_a_file_that_was_cut_and_closed_again_lacks_pixels(options: dict[str, Any]) -> None:
    data = encoded(drawn_cell(200), "JPEG", **options)
    scan = data.rindex(b"\xff\xda") + 14
    for place in np.linspace(scan, len(data) - 12, 20).astype(int):
        assert damage_of(data[:place] + b"\xff\xd9"), f"cut at {place} of {len(data)}"


@pytest.mark.parametrize("name", ["baseline", "best quality", "restarts"])
def test_a_scan_that_was_overwritten_or_shortened_nearly_always_shows(name: str) -> None:
    random = np.random.default_rng(0)
    data = encoded(drawn_cell(200), "JPEG", **KINDS[name])
    scan = data.index(b"\xff\xda") + 14
    shown = []
    for number in range(60):
        length = int(random.integers(100, 600))
        place = int(random.integers(scan, len(data) - length - 2))
        wrong = (bytes(length), random.bytes(length), b"")[number % 3]
        shown.append(bool(damage_of(data[:place] + wrong + data[place + length :])))
    assert np.mean(shown) >= 0.9


def test_restart_markers_out_of_turn_and_markers_of_other_places_show() -> None:
    data = encoded(drawn_cell(200), "JPEG", restart_marker_blocks=3)
    assert damage_of(data.replace(b"\xff\xd3", b"\xff\xd4", 1)) == "a marker stands where compressed pixels should"
    assert damage_of(data.replace(b"\xff\xd3", b"\xff\x02", 1)) == "a marker stands where compressed pixels should"


def test_left_over_bytes_show() -> None:
    data = encoded(drawn_cell(200), "JPEG")
    assert damage_of(data[:-2] + bytes(20) + data[-2:]) == "compressed pixels are left over"


def test_a_file_of_restart_markers_alone_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(drawn_cell(60), "JPEG")
    markers = b"".join(bytes([0xFF, 0xD0 + number]) for number in range(8)) * 200
    assert damage_of(data[:-2] + markers + data[-2:]) != "a marker stands where compressed pixels should"
    monkeypatch.setattr(jpeg, "MOST_RUNS", 1000)
    assert damage_of(data[:-2] + markers + data[-2:]) == "a marker stands where compressed pixels should"


def test_a_file_of_endless_scans_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = encoded(drawn_cell(64), "JPEG", progressive=True)
    last = sound.rindex(b"\xff\xda")
    decode_picture(sound)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("was decoded"))
    with pytest.raises(UnreadableCellError, match="expected at most 100 scans, found 110"):
        decode_picture(sound[:-2] + sound[last:-2] * 100 + sound[-2:])
