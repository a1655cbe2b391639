"""The folder of --explain: a picture for each classified cell of what its answer comes from, and a table of them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path, PurePath

from runtime.classifier import Classifier
from runtime.command_line import tell
from runtime.errors import NotFiniteError, OutputError, UnreadableCellError, UsageError
from runtime.explanation import explain
from runtime.files import output_errors, refuse_unwritable, write_csv_aside, written_aside
from runtime.heat_picture import heat_picture
from runtime.inputs import MAP_SUFFIX
from runtime.preprocessing import load_cell
from runtime.results import P_ALL_DIGITS
from runtime.schema import SELF_TEST_TOLERANCES, Prediction

INDEX = "index.csv"
COLUMNS = ("path", "picture", "p_all", "method", "reason")
STEM_CHARACTERS = 80  # of a file's name in its picture's name, which must not be longer than a file system takes
HASH_DIGITS = 8
CHANGED = "the image has changed since it was classified"


class ExplanationFolder:
    """Draws a picture for each prediction that it is given; where that fails, the run continues without."""

    def __init__(self, folder: Path, classifier: Classifier) -> None:
        """Raise UsageError or OutputError where `folder` cannot take them."""
        with output_errors(folder):
            if folder.exists() and not folder.is_dir():
                raise UsageError(f"expected a folder for --explain, found the file {folder}; choose another name")
            folder.mkdir(parents=True, exist_ok=True)
        refuse_unwritable(folder / INDEX)
        self.folder = folder
        self.failure = ""  # why nothing more is drawn
        self._classifier = classifier
        self._rows: list[tuple[object, ...]] = []

    def add(self, prediction: Prediction) -> None:
        """Draw the picture of a cell that has an answer."""
        if prediction.p_all is None or self.failure:
            return
        try:
            self._rows.append(self._drawn(prediction, prediction.p_all))
        except OutputError as error:
            self.failure = str(error)
            tell(f"error: {error}; no more pictures are drawn, the classification continues")

    def write_index(self) -> None:
        """Write the table that says which picture is of which cell; raise OutputError where it cannot be written."""
        write_csv_aside(self.folder / INDEX, COLUMNS, self._rows)

    def _drawn(self, prediction: Prediction, p_all: float) -> tuple[object, ...]:
        classifier = self._classifier
        try:
            cell = load_cell(prediction.path, classifier.manifest.image)
            found = explain(classifier.backend, cell, classifier.batch_size)
        except (UnreadableCellError, NotFiniteError) as error:
            return prediction.path, "", "", "", f"{CHANGED}: {error}"
        if abs(found.p_all - p_all) > SELF_TEST_TOLERANCES[classifier.precision]:
            return prediction.path, "", "", "", CHANGED
        caption = f"{prediction.label}   p_all {p_all:.3f}   {found.method}"
        name = picture_name(prediction.path)
        path = self.folder / name
        with written_aside(path) as aside, output_errors(path):
            heat_picture(cell, found.heat, caption).save(aside, format="PNG")
        return prediction.path, name, f"{found.p_all:.{P_ALL_DIGITS}f}", found.method, ""


def picture_name(path: str) -> str:
    """Return the name of a file's picture: its own, and a hash of the whole path, since many folders hold a 1.bmp."""
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:HASH_DIGITS]
    stem = "".join(
        each if each.isascii() and (each.isalnum() or each in "-_.") else "_" for each in PurePath(path).stem
    )
    return f"{stem[:STEM_CHARACTERS]}.{digest}{MAP_SUFFIX}"
