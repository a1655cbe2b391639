"""The contact sheet of a run: one HTML file with the cells sorted by probability, which needs nothing beside it."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from PIL import Image

import runtime
from runtime.classifier import Classifier
from runtime.errors import UnreadableCellError, UsageError
from runtime.files import file_clock_ns, has_changed, output_place, refuse_unwritable, text_written_aside
from runtime.html_page import TAIL, head, text
from runtime.inputs import spread_over
from runtime.outcomes import Outcomes, nouns
from runtime.preprocessing import load_cell
from runtime.progress import with_progress
from runtime.schema import CLASSES, ImageSpec, Prediction
from runtime.shift import ShiftCheck

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SUFFIX = ".html"
MOST_SHOWN = 2000  # cells; the page stays below 10 MB, which a phone opens, and nobody looks through more
MOST_ERRORS = 1000  # files in the list of those that could not be read
THUMBNAIL = ImageSpec(96, 96)
JPEG_QUALITY = 85
STYLE = """\
:root { color-scheme: light dark; --review: #a04000; }
@media (prefers-color-scheme: dark) { :root { --review: #ffb066; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 2rem auto; padding: 0 1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; }
dd { margin: 0; overflow-wrap: anywhere; }
nav a { margin-right: 1rem; }
a:focus-visible { outline: 3px solid; outline-offset: 2px; }
.cells { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .75rem; }
.cells { list-style: none; padding: 0; font-size: .75rem; line-height: 1.3; }
.cells li { border: 1px solid #8885; border-radius: .4rem; padding: .5rem; overflow-wrap: anywhere; }
.cells .review { border: 2px solid var(--review); }
.cells img, .gone { display: block; width: 96px; height: 96px; margin: 0 auto .4rem; background: #000; }
.gone { background: none; border: 1px dashed; box-sizing: border-box; padding: .2rem; overflow: hidden; }
.cells b { font-size: 1rem; }
.why { display: block; color: var(--review); }
.errors { overflow-wrap: anywhere; }
@media print { .cells li { break-inside: avoid; } }
"""
INTRODUCTION = """\
<h1>Contact sheet</h1>
<p><strong>For research, not a diagnosis.</strong> Below each picture: p_all, the probability that the cell is leukemic
(ALL), and the label that follows from it.</p>
"""


@dataclass(frozen=True)
class Origin:
    """What gave the answers on a sheet."""

    bundle: str  # its folder
    bundle_sha256: str  # of what its manifest holds
    variant: str  # model and precision
    backend: str  # library, version and device
    threshold: float  # ALL from this p_all on

    @classmethod
    def of(cls, classifier: Classifier) -> Origin:
        """Read it off a classifier."""
        return cls(
            bundle=str(classifier.bundle.folder),
            bundle_sha256=classifier.bundle.content_sha256,
            variant=f"{classifier.manifest.training.config.options.model} {classifier.precision}",
            backend=classifier.backend.description,
            threshold=classifier.threshold,
        )


class FairSample:
    """At most `size` of the predictions added, each as likely as any other (algorithm R in Vitter, 1985).

    The same predictions in the same order give the same sample.
    """

    def __init__(self, size: int) -> None:
        self.kept: list[Prediction] = []
        self.seen = 0
        self._size = size
        self._random = random.Random(0)

    def add(self, prediction: Prediction) -> None:
        """Keep the prediction, perhaps in another one's place, or pass it over."""
        self.seen += 1
        if len(self.kept) < self._size:
            self.kept.append(prediction)
        elif (place := self._random.randrange(self.seen)) < self._size:
            self.kept[place] = prediction


class ContactSheet:
    """Collects a run's predictions and writes their page; keeps at most MOST_SHOWN of a kind, however many come."""

    def __init__(self, path: Path, origin: Origin, shift: ShiftCheck, most_shown: int = MOST_SHOWN) -> None:
        """Raise OutputError where no page could be written to `path`.

        Args:
            path: Of the page.
            origin: What gives the answers.
            shift: Given the same predictions by the caller; the page shows its warning.
            most_shown: Cells on the page.
        """
        refuse_unwritable(path)
        self.path = path
        self._began_ns = file_clock_ns(output_place(path))
        self._origin = origin
        self._shift = shift
        self._most_shown = most_shown
        self._outcomes = Outcomes()
        self._clear = FairSample(most_shown)
        self._review = FairSample(most_shown)
        self._errors: list[Prediction] = []  # the first of them

    def add(self, prediction: Prediction) -> None:
        """Take note of one row."""
        self._outcomes.add(prediction)
        if prediction.status != "error":
            (self._review if prediction.status == "review" else self._clear).add(prediction)
        elif len(self._errors) < MOST_ERRORS:
            self._errors.append(prediction)

    def shown(self) -> list[Prediction]:
        """Return the cells that the page shows, from the highest p_all to the lowest.

        Those under review come first, in up to half of the room or what the others leave of it; where there is no room
        for all of a kind, a fair sample is spread evenly over its probabilities.
        """
        clear, review = (_by_probability(sample.kept) for sample in (self._clear, self._review))
        most_review = max(self._most_shown // 2, self._most_shown - len(clear))
        review = spread_over(review, most_review)
        return _by_probability([*review, *spread_over(clear, self._most_shown - len(review))])

    def write(self) -> None:
        """Write the page, whole or not at all, with pictures read again from the files.

        Raises OutputError where it cannot be written.
        """
        shown = self.shown()
        with text_written_aside(output_place(self.path)) as stream:
            stream.write(head("Contact sheet", STYLE) + INTRODUCTION)
            if warning := self._shift.warning:
                stream.write(f'<p class="why"><strong>{text(warning)}.</strong></p>\n')
            stream.write(self._facts(shown))
            for label in reversed(CLASSES):
                stream.writelines(self._section(label, [each for each in shown if each.label == label]))
            stream.writelines(self._error_section())
            stream.write(TAIL)

    def _facts(self, shown: Sequence[Prediction]) -> str:
        origin, outcomes, now = self._origin, self._outcomes, datetime.now().astimezone()
        facts = {
            "Bundle": f"{origin.bundle} (content {origin.bundle_sha256[:12]})",
            "Variant": origin.variant,
            "Backend": f"{origin.backend}; allnet-edge {runtime.__version__}",
            "Threshold": f"ALL from p_all {origin.threshold:g} on",
            "Cells": ", ".join(f"{cells:,} {label}" for label, cells in outcomes.labels.items())
            + f"; {outcomes.review:,} of them for review",
            "Not readable": f"{outcomes.errors:,} {nouns(outcomes.errors, 'file')}",
            "Shown": self._shown_note(shown),
            "Written": f"{now:%Y-%m-%d %H:%M} (UTC{now:%z})",
        }
        items = "".join(f"<dt>{name}</dt><dd>{text(value)}</dd>\n" for name, value in facts.items())
        links = "".join(f'<a href="#{label}">{label}</a>' for label in reversed(CLASSES))
        return f'<dl>\n{items}</dl>\n<nav>{links}<a href="#errors">not readable</a></nav>\n'

    def _shown_note(self, shown: Sequence[Prediction]) -> str:
        cells = self._outcomes.cells
        if len(shown) == cells:
            return f"all {cells:,} cells" if cells != 1 else "the one cell"
        review = sum(each.status == "review" for each in shown)
        return (
            f"{len(shown):,} of {cells:,} cells: {review:,} of the {self._review.seen:,} for review and "
            f"{len(shown) - review:,} of the {self._clear.seen:,} others, drawn at random and spread evenly over the "
            "probabilities; the results table has all"
        )

    def _section(self, label: str, shown: Sequence[Prediction]) -> Iterator[str]:
        cells = self._outcomes.labels[label]
        of_all = f"{len(shown):,} of {cells:,} {nouns(cells, 'cell')}"
        yield f'<h2 id="{label}">{label}: {of_all}</h2>\n<ul class="cells">\n'
        yield from _in_threads(partial(_card, began_ns=self._began_ns), shown)
        yield "</ul>\n"

    def _error_section(self) -> Iterator[str]:
        count = self._outcomes.errors
        listed = f"the first {len(self._errors):,} of " if len(self._errors) < count else ""
        files = f"{count:,} {nouns(count, 'file')}"
        yield f'<h2 id="errors">Not readable: {listed}{files}</h2>\n<ul class="errors">\n'
        for error in self._errors:
            yield f"<li>{text(error.path)}: {text(error.reason)}</li>\n"
        yield "</ul>\n"


def check_page_name(path: Path) -> None:
    """Raise UsageError where `path` cannot be the name of a page."""
    if path.suffix.lower() != SUFFIX:
        raise UsageError(f"expected a page's name ending in {SUFFIX}, received {path.name!r}")


def thumbnail(path: str) -> bytes:
    """Read a cell as the model does, padded to a square, and return it small, as a JPEG file.

    Raises UnreadableCellError where the file is gone or no longer holds a readable image.
    """
    return as_jpeg(load_cell(path, THUMBNAIL))


def as_jpeg(cell: NDArray[np.uint8]) -> bytes:
    """Return a cell, uint8 RGB [height, width, 3], as a JPEG file for people to look at."""
    stream = io.BytesIO()
    # Without subsampling, which would blur the stain's colors across the edge of the nucleus.
    Image.fromarray(cell).save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return stream.getvalue()


def _by_probability(cells: Iterable[Prediction]) -> list[Prediction]:
    return sorted(cells, key=lambda cell: (-(cell.p_all or 0.0), cell.path))


def _in_threads(card: Callable[[Prediction], str], cells: Sequence[Prediction]) -> Iterator[str]:
    """Yield the cards of cells in order, with a progress bar on a terminal."""
    pool = ThreadPoolExecutor()
    try:
        yield from with_progress(pool.map(card, cells), total=len(cells), unit="picture")
    finally:
        pool.shutdown(cancel_futures=True)


def _card(cell: Prediction, began_ns: int) -> str:
    why = f'<span class="why">review: {text(cell.reason)}</span>' if cell.status == "review" else ""
    name = f'<span title="{text(cell.path)}">{text(PurePath(cell.path).name)}</span>'
    picture = _picture(cell, began_ns)
    return f'<li class="{cell.status}">{picture}<b>{cell.p_all:.4f} {cell.label}</b><br>{name}{why}</li>\n'


def _picture(cell: Prediction, began_ns: int) -> str:
    try:
        data = base64.b64encode(thumbnail(cell.path)).decode()
    except UnreadableCellError as error:
        return f'<span class="gone">no picture any more: {text(error)}</span>'
    if has_changed(cell.path, cell.identity, began_ns):
        return '<span class="gone">no picture any more: the file was changed after the run began</span>'
    name = text(PurePath(cell.path).name)
    return f'<img alt="Cell {name}" width="96" height="96" src="data:image/jpeg;base64,{data}">'
