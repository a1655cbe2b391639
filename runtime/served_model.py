"""A model behind a server of the open inference protocol (KServe v2): Triton, or runtime.serve.

All that a program of your own has to do: learn the size from the model's description, prepare the cells with
`runtime.preprocessing`, and ask for `p_all`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

import numpy as np
import tritonclient.http as triton
from gevent.hub import Hub

from runtime.closing import Closing
from runtime.errors import ServerError, UsageError
from runtime.schema import INPUT_NAME, OUTPUT_NAME, ImageSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

TIMEOUT_S = 60.0  # to connect, and for an answer
Hub.NOT_ERROR = (*Hub.NOT_ERROR, KeyboardInterrupt)  # which gevent would print, as an error, beside our line
CELL_AXES = 4  # of the input, [N, height, width, 3]


def _parts_of(url: str) -> SplitResult | None:
    """Return the parts of a server's address, None where it is not one."""
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # such as a port that is no number
        return None
    return parts if is_address else None


class ServedModel(Closing):
    """A model of a server; a context manager, of one thread alone."""

    def __init__(self, url: str, name: str, token: str = "", timeout_s: float = TIMEOUT_S) -> None:
        """Ask what the model takes.

        Raises UsageError for an address or a token that is not one, and ServerError for another answer.
        """
        parts = _parts_of(url)
        if parts is None:
            raise UsageError(f"expected the server's address, such as http://127.0.0.1:8000, received {url}")
        if not token.isascii() or not token.isprintable():
            raise UsageError(
                "expected a token of ASCII characters on one line, found others; put it alone into its file"
            )
        self.url = url
        self.name = name
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._client = triton.InferenceServerClient(
            parts.netloc + parts.path.rstrip("/"),
            ssl=parts.scheme == "https",
            connection_timeout=timeout_s,
            network_timeout=timeout_s,
        )
        try:
            with self._errors():
                self.image = self._image_of(self._client.get_model_metadata(name, headers=self._headers))
        except BaseException:
            self.close()
            raise

    def infer(self, cells: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return p_all, float32 [N], of cells, uint8 RGB [N, height, width, 3] of the size `image`.

        Raises ServerError where the server does not answer, refuses, or answers with something else.
        """
        sent = triton.InferInput(INPUT_NAME, list(cells.shape), "UINT8")
        sent.set_data_from_numpy(cells)
        wanted = [triton.InferRequestedOutput(OUTPUT_NAME)]
        with self._errors():
            answer = self._client.infer(self.name, [sent], outputs=wanted, headers=self._headers).as_numpy(OUTPUT_NAME)
        # Triton counts one number for each cell as a dimension of its own, [N, 1].
        if answer is None or answer.size != len(cells) or not ((answer >= 0) & (answer <= 1)).all():
            raise ServerError(
                f"expected a probability for each of {len(cells)} cells from {self.name} at {self.url}, found "
                f"{'nothing' if answer is None else f'values of the shape {list(answer.shape)}'}; look at the server"
            )
        p_all: NDArray[np.float32] = answer.reshape(-1)
        return p_all

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def _image_of(self, description: Any) -> ImageSpec:
        """Return the size of the cells that a model takes; raise ServerError where it is no model of cells."""
        taken = {each["name"]: each for each in description.get("inputs", [])}.get(INPUT_NAME, {})
        given = {each["name"] for each in description.get("outputs", [])}
        shape = [int(side) for side in taken.get("shape", [])]
        is_of_cells = len(shape) == CELL_AXES and min(shape[1:3]) > 0 and shape[3] == 3  # -1: any size
        if not is_of_cells or taken.get("datatype") != "UINT8" or OUTPUT_NAME not in given:
            raise ServerError(
                f"expected a model that takes {INPUT_NAME}, UINT8 [N, height, width, 3], and gives {OUTPUT_NAME} at "
                f"{self.url}, found that {self.name} is another; name a model of an exported bundle"
            )
        return ImageSpec(width=shape[2], height=shape[1])

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except triton.InferenceServerException as error:
            said = " ".join(str(error.message()).split())
            raise ServerError(f"expected an answer of {self.name} at {self.url}, found: {said}") from error
        except (OSError, HTTPException) as error:  # the latter where it answers, but not as HTTP does
            raise ServerError(
                f"expected a server at {self.url}, found none that answers ({error}); start it, or check the address"
            ) from error
        except (ValueError, TypeError, AttributeError, LookupError) as error:  # from tritonclient, of a web page
            raise ServerError(
                f"expected an answer of the open inference protocol at {self.url}, found another; check the address"
            ) from error
