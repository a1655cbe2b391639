from __future__ import annotations

import base64
import io
import os
import pickle
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime import contact_sheet
from runtime.classify import main
from runtime.command_line import PARTLY_DONE
from runtime.contact_sheet import MOST_ERRORS, ContactSheet, FairSample, Origin, thumbnail
from runtime.errors import AllnetError, OutputError
from runtime.files import identity_of
from runtime.schema import Prediction
from runtime.shift import ShiftCheck

CellFile = Callable[[str], Path]
ORIGIN = Origin("bundles/<allnet>", "0123456789abcdef", "allnet int8", "a fake", 0.5)
ELEMENTS_WITHOUT_END = ("meta", "img", "br")


class Page(HTMLParser):
    """What a browser would make of a page: its elements, the text of each card, the pictures."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.cards: list[str] = []  # the text of each list item
        self.text = ""
        self._open: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self._open, "each element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ELEMENTS_WITHOUT_END:
            self._open.append(tag)
        if tag == "li":
            self.cards.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "li" in self._open:
            self.cards[-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def pictures(self) -> list[Image.Image]:
        datas = [(each["src"] or "").removeprefix("data:image/jpeg;base64,") for each in self.all("img")]
        return [Image.open(io.BytesIO(base64.b64decode(data, validate=True))) for data in datas]


def cell(path: str | Path, p_all: float, reason: str = "") -> Prediction:
    """Return the row of a file, which need not exist, as it is now."""
    identity = identity_of(Path(path).stat()) if Path(path).exists() else ""
    label, status = "ALL" if p_all >= 0.5 else "healthy", "review" if reason else "ok"
    return Prediction(str(path), label, p_all, status, reason, 0.001, identity=identity)


def unreadable(path: str) -> Prediction:
    return Prediction(path, "", None, "error", "the file is empty", 0.001)


def sheet_of(folder: Path, *rows: Prediction, most_shown: int = 2000) -> ContactSheet:
    sheet = ContactSheet(folder / "sheet.html", ORIGIN, ShiftCheck(None), most_shown)
    for row in rows:
        sheet.add(row)
    return sheet


def page_of(folder: Path, *rows: Prediction) -> Page:
    sheet = sheet_of(folder, *rows)
    sheet.write()
    return Page(sheet.path)


def test_cells_stand_from_the_highest_probability_to_the_lowest_with_label_and_reason(
    cell_file: CellFile, tmp_path: Path
) -> None:
    rows = [
        cell(cell_file("a.png"), 0.25),
        cell(cell_file("b.png"), 0.5, "near the threshold"),
        cell(cell_file("c.png"), 0.75),
    ]
    page = page_of(tmp_path, *rows, unreadable("d.png"))
    assert page.cards == [
        "0.7500 ALLc.png",
        "0.5000 ALLb.pngreview: near the threshold",
        "0.2500 healthya.png",
        "d.png: the file is empty",
    ]


def test_the_head_says_what_gave_the_answers_and_how_many_of_each(cell_file: CellFile, tmp_path: Path) -> None:
    one = cell_file("a.png")
    text = page_of(tmp_path, cell(one, 0.9), cell(one, 0.8, "blurred"), cell(one, 0.1), unreadable("b")).text
    for words in (
        "For research, not a diagnosis.",
        "bundles/<allnet> (content 0123456789ab)",
        "allnet int8",
        "a fake",
        "ALL from p_all 0.5 on",
        "2 ALL, 1 healthy; 1 of them for review",
        "1 file",
        "all 3 cells",
        "ALL: 2 of 2 cells",
    ):
        assert words in text


def test_the_page_loads_nothing_runs_nothing_and_can_be_read_without_seeing(
    cell_file: CellFile, tmp_path: Path
) -> None:
    page = page_of(tmp_path, cell(cell_file("a.png"), 0.9), cell(cell_file("b.png"), 0.1))
    assert not {name for name, _ in page.elements} & {"script", "link", "iframe", "object"}
    assert "http:" not in page.source
    assert "https:" not in page.source
    assert "url(" not in page.source
    assert [each["alt"] for each in page.all("img")] == ["Cell a.png", "Cell b.png"]
    assert page.all("html") == [{"lang": "en"}]
    links, marks = ({each.get(key) for _, each in page.elements} - {None} for key in ("href", "id"))
    assert links == {f"#{mark}" for mark in marks}
    for style in ("prefers-color-scheme: dark", "a:focus-visible { outline", "width=device-width"):
        assert style in page.source


def test_a_picture_is_the_cell_padded_to_a_square_and_small(tmp_path: Path) -> None:
    pixels = np.full((100, 200, 3), (180, 60, 140), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    with Image.open(io.BytesIO(thumbnail(str(tmp_path / "wide.png")))) as picture:
        assert (picture.format, picture.size) == ("JPEG", (96, 96))
        shown = np.asarray(picture).astype(int)
    assert shown[:20].max() < 10, "the padding above is black"
    assert np.abs(shown[30:66] - (180, 60, 140)).max() < 10


def test_a_file_name_may_hold_anything(cell_file: CellFile, tmp_path: Path) -> None:
    names = ["<script>alert(1)<!--.png", "\" onerror='alert(1).png", "&lt;.png", "line\nbreak.png", "\u202egnp.png"]
    if sys.platform.startswith("linux"):
        names.append(os.fsdecode(b"not-utf8-\xff.png"))
    rows = [cell(cell_file(name), 1 - index / 10) for index, name in enumerate(names)]
    page = page_of(tmp_path, *rows, unreadable("<img src=x onerror=alert(1)>"))
    shown = [*names[:3], r"line\nbreak.png", r"\u202egnp.png", r"not-utf8-\udcff.png"][: len(names)]
    assert [each["alt"] for each in page.all("img")] == [f"Cell {name}" for name in shown]
    assert [card.split(" ", 1)[1].removeprefix("ALL") for card in page.cards[:-1]] == shown
    assert page.cards[-1].startswith("<img src=x onerror=alert(1)>: ")
    assert {key for each in page.all("img") for key in each} == {"alt", "width", "height", "src"}


def test_a_file_that_has_gone_or_broken_meanwhile_is_a_placeholder(cell_file: CellFile, tmp_path: Path) -> None:
    stays, goes, breaks = (cell_file(f"{name}.png") for name in ("stays", "goes", "breaks"))
    sheet = sheet_of(tmp_path, cell(stays, 0.9), cell(goes, 0.8), cell(breaks, 0.7))
    goes.unlink()
    breaks.write_bytes(b"?")
    sheet.write()
    page = Page(sheet.path)
    assert len(page.pictures) == 1
    assert page.cards[1] == "no picture any more: cannot be opened: No such file or directory0.8000 ALLgoes.png"
    assert page.cards[2].startswith("no picture any more: not an image that can be read")


def test_a_picture_of_another_file_under_the_same_path_is_never_shown(cell_file: CellFile, tmp_path: Path) -> None:
    for folder in ("one", "other"):
        cell_file(f"{folder}/cell.png")
    (tmp_path / "cells").symlink_to(tmp_path / "one")
    time.sleep(0.05)  # longer than the file system's clock stands still: no file changes after the run began
    sheet = sheet_of(tmp_path, cell(tmp_path / "cells" / "cell.png", 0.9))
    (tmp_path / "cells").unlink()
    (tmp_path / "cells").symlink_to(tmp_path / "other")
    sheet.write()
    assert not Page(sheet.path).pictures


@pytest.mark.parametrize("is_replaced", [True, False], ids=["by another file", "in place"])
def test_a_picture_that_was_changed_meanwhile_is_never_shown_beside_the_old_answer(
    cell_file: CellFile, tmp_path: Path, is_replaced: bool
) -> None:
    stays, changes, other = (cell_file(f"{name}.png") for name in ("stays", "changes", "other"))
    sheet = sheet_of(tmp_path, cell(stays, 0.9), cell(changes, 0.8))
    time.sleep(0.05)  # longer than the file system's clock stands still
    if is_replaced:
        os.utime(other, (1, 1))  # as a copy that keeps the time of an old file
        other.replace(changes)
    else:
        changes.write_bytes(other.read_bytes())
    sheet.write()
    page = Page(sheet.path)
    assert len(page.pictures) == 1
    assert page.cards[1] == "no picture any more: the file was changed after the run began0.8000 ALLchanges.png"


def test_of_many_cells_all_for_review_and_a_fair_share_of_the_others_are_shown(tmp_path: Path) -> None:
    many = [cell(f"{number}.png", number / 10_000) for number in range(10_000)]
    review = [cell(f"r{number}.png", 0.5, "near") for number in range(30)]
    sheet = sheet_of(tmp_path, *many, *review, most_shown=200)
    shown = sheet.shown()
    others = [each.p_all or 0.0 for each in shown if each.status == "ok"]
    assert (len(shown), len(others)) == (200, 170)
    assert [each.p_all for each in shown] == sorted((each.p_all for each in shown), key=lambda p: -(p or 0.0))
    quarters = np.histogram(others, [0, 0.25, 0.5, 0.75, 1])[0]
    assert quarters.min() > 30, "of 42 in each quarter on average"
    sheet.write()
    assert (
        "200 of 10,030 cells: 30 of the 30 for review and 170 of the 10,000 others, drawn at random"
        in Page(sheet.path).text
    )


@pytest.mark.parametrize(
    ("clear", "review", "shown_clear", "shown_review"),
    [(10, 0, 10, 0), (10, 10, 10, 10), (50, 50, 10, 10), (5, 50, 5, 15), (50, 5, 15, 5), (0, 50, 0, 20)],
)
def test_neither_kind_of_cell_takes_all_the_room(
    clear: int, review: int, shown_clear: int, shown_review: int, tmp_path: Path
) -> None:
    rows = [cell(f"{n}.png", n / 100) for n in range(clear)] + [
        cell(f"r{n}.png", n / 100, "near") for n in range(review)
    ]
    kinds = [each.status for each in sheet_of(tmp_path, *rows, most_shown=20).shown()]
    assert (kinds.count("ok"), kinds.count("review")) == (shown_clear, shown_review)


def test_a_sample_is_fair_to_early_and_late_cells_and_repeats_itself() -> None:
    samples = [FairSample(500), FairSample(500)]
    for sample in samples:
        for number in range(5000):
            sample.add(cell(f"{number}.png", number / 5000))
    assert samples[0].kept == samples[1].kept
    tenths = np.histogram([each.p_all or 0.0 for each in samples[0].kept], 10, (0, 1))[0]
    assert 30 < tenths.min() <= tenths.max() < 70, "of 50 on average, standard deviation 6.7"


def test_what_is_kept_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    sheet = sheet_of(tmp_path, most_shown=50)
    sizes = []
    for number in range(4 * MOST_ERRORS):
        if number in (2 * MOST_ERRORS, 4 * MOST_ERRORS - 1):
            sizes.append(len(pickle.dumps(sheet)))
        sheet.add(cell(f"{number}.png", 0.9, "near" if number % 2 else ""))
        sheet.add(unreadable(f"{number}.png"))
    assert sizes[1] < sizes[0] + 500, "bytes; larger numbers take a few more"


def test_of_many_errors_the_first_are_listed_and_all_are_counted(tmp_path: Path) -> None:
    page = page_of(tmp_path, *(unreadable(f"{number}.png") for number in range(MOST_ERRORS + 5)))
    assert len(page.cards) == MOST_ERRORS
    assert "Not readable: the first 1,000 of 1,005 files" in page.text


def test_a_page_that_cannot_be_finished_leaves_the_old_one(
    cell_file: CellFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: str) -> bytes:
        raise OSError(28, "No space left on device")

    (tmp_path / "out").mkdir()
    sheet = sheet_of(tmp_path / "out", cell(cell_file("a.png"), 0.9))
    sheet.path.write_text("the old one")
    monkeypatch.setattr(contact_sheet, "thumbnail", full)
    with pytest.raises(OutputError, match=r"cannot write .*sheet\.html: No space left on device"):
        sheet.write()
    assert sheet.path.read_text() == "the old one"
    assert list((tmp_path / "out").iterdir()) == [sheet.path]


def test_classify_writes_the_page_and_says_where(
    cell_file: CellFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell_file("cells/a.bmp")
    (tmp_path / "cells" / "b.bmp").write_bytes(b"")
    page = tmp_path / "new" / "sheet.HTML"
    command = [str(tmp_path / "cells"), "--threshold", "0.25", "--html", str(page)]
    assert main([*command, "--out", str(tmp_path / "r.csv")]) == PARTLY_DONE
    assert f"Contact sheet: {page}" in capsys.readouterr().err.splitlines()
    read = Page(page)
    assert len(read.pictures) == 1
    assert read.cards[1] == f"{tmp_path / 'cells' / 'b.bmp'}: the file is empty"
    for words in ("compact fp32", "CPUExecutionProvider", "default_bundle", "ALL from p_all 0.25 on"):
        assert words in read.text


REFUSALS = {
    "another suffix": ("sheet.htm", "expected a page's name ending in .html, received 'sheet.htm'"),
    "a folder": ("folder.html", "expected a file name, found the folder"),
    "below a file": ("cell.bmp/sheet.html", "cannot write"),
}


@pytest.mark.parametrize(("name", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_page_that_cannot_be_written_is_refused_before_anything_is_classified(
    name: str, message: str, cell_file: CellFile, tmp_path: Path
) -> None:
    file = cell_file("cell.bmp")
    (tmp_path / "folder.html").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(AllnetError, match=message):
        main([str(file), "--html", str(tmp_path / name), "--out", str(tmp_path / "r.csv")])
    assert sorted(tmp_path.rglob("*")) == before
