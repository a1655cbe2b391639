"""The last line of a run over many files."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from runtime.outcomes import Outcomes, nouns


@dataclass
class Summary(Outcomes):
    """What came of the files of one run, and how fast."""

    resumed: int = 0  # rows that an earlier run had made
    started: float = field(default_factory=time.perf_counter)

    def __str__(self) -> str:
        seconds = time.perf_counter() - self.started
        rate = (self.rows - self.resumed) / seconds if seconds else 0.0
        files = nouns(self.rows, "file")
        return f"{self.rows} {files} in {seconds:.1f} s ({rate:.0f} a second): {super().__str__()}"
