"""Answers which places of one image the model's answer comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import anyio
import numpy as np

from runtime.classifier import Classifier
from runtime.errors import AllnetError, NotFiniteError, one_line
from runtime.explanation import Explanation, explain
from runtime.pipeline import NO_NUMBER
from runtime.reading import Reading
from runtime.results import P_ALL_DIGITS
from runtime.service.desk import Desk
from runtime.service.problems import BusyError, RequestError
from runtime.service.uploads import FIELD, Upload

MOST_WAITING = 16  # requests; by occlusion, each takes the model 65 times
DIGITS = 6  # of the map's values


class Explainer:
    """Explains one image after the other, so that classifying continues meanwhile; at most MOST_WAITING wait."""

    def __init__(self) -> None:
        self._turn = anyio.CapacityLimiter(1)
        self._taken = 0  # counted here: the limiter counts who waits only after it has let other tasks run

    async def answer(self, desk: Desk, read: Callable[[], Reading]) -> dict[str, Any]:
        """Return p_all, the map and its size as JSON.

        Raises RequestError for what is not a readable image, and where the model proved faulty while the image waited.
        """
        if self._taken > MOST_WAITING:
            raise BusyError(f"expected at most {MOST_WAITING} images that wait for a map, found more; try again later")
        self._taken += 1
        try:
            found = await anyio.to_thread.run_sync(_explained, desk.classifier, read, limiter=self._turn)
            desk.check_alive()
        finally:
            self._taken -= 1
        rows, columns = found.heat.shape
        return {
            "p_all": round(found.p_all, P_ALL_DIGITS),
            "rows": rows,
            "columns": columns,
            "heat": np.round(found.heat.astype(float), DIGITS).tolist(),
            "method": found.method,
        }


def only_image(uploads: Sequence[Upload]) -> Upload:
    """Return the image of a request that holds no other; raise RequestError where it does."""
    if len(uploads) != 1 or uploads[0].is_archive:
        raise RequestError(400, f"expected one image in the field {FIELD!r}, found {len(uploads)} files or an archive")
    return uploads[0]


def _explained(classifier: Classifier, read: Callable[[], Reading]) -> Explanation:
    reading = read()
    if reading.pixels is None:
        raise RequestError(422, f"expected an image that can be read, found: {reading.reason}")
    try:
        return explain(classifier.backend, reading.pixels, classifier.batch_size)
    except NotFiniteError as error:
        raise RequestError(422, f"expected an image that the model can judge, found: {NO_NUMBER}") from error
    except AllnetError as error:
        raise BusyError(f"the model could not explain the cell: {one_line(error)}") from error
