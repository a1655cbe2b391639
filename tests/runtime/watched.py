"""A watched folder with its database, without a service that watches it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from runtime.demo import demo_cells
from runtime.errors import UnopenableCellError
from runtime.files import sha256_of_file
from runtime.schema import Audit, Prediction
from runtime.watching.database import FileVersion, own_files
from runtime.watching.result_store import ResultStore
from tests.runtime.audits import AUDIT


class Watched:
    """Writes cells into a folder, and rows into a database as `runtime.watch` does."""

    def __init__(self, place: Path) -> None:
        self.folder = place / "microscope"
        self.folder.mkdir()
        self.database = place / "results.sqlite"

    def cell(self, name: str) -> Path:
        """Write a drawn cell."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(demo_cells()[0], path)
        return path

    def remove(self) -> None:
        """Remove the database."""
        for name in own_files(self.database):
            (self.database.parent / name).unlink(missing_ok=True)

    def add(
        self,
        *names: str,
        p_all: float | None = 0.9,
        status: str = "ok",
        time: str = AUDIT.time,
        bundle: str = AUDIT.bundle,
        warning: str | None = None,
    ) -> None:
        """Write a row for each name, and a warning of their window, in one transaction, and end."""
        audit = replace(AUDIT, time=time, bundle=bundle)
        with ResultStore(self.database) as store:
            for name in names:
                store.add(self._version(name), self._prediction(name, p_all, status, audit))
            if warning is not None:
                store.keep_warning(warning)
            store.commit()

    def _version(self, name: str) -> FileVersion:
        path = self.folder / name
        if not path.is_file():
            return FileVersion(name, 1, 1)
        return FileVersion(name, path.stat().st_size, path.stat().st_mtime_ns)

    def _prediction(self, name: str, p_all: float | None, status: str, audit: Audit) -> Prediction:
        path = str(self.folder / name)
        if (self.folder / name).is_file():
            audit = replace(audit, sha256=sha256_of_file(self.folder / name))
        if p_all is None:
            reason = str(UnopenableCellError("Permission denied"))
            return Prediction(path, "", None, "error", reason, 0.001, replace(audit, sha256=""))
        label = "ALL" if p_all >= audit.threshold else "healthy"
        reason = "" if status == "ok" else "near the threshold: p_all is between 0.283 and 0.717"
        return Prediction(path, label, p_all, status, reason, 0.001, audit)
