"""Has the cells of a request scored, as long as its client waits for that."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.requests import ClientDisconnect, Request

from runtime.pipeline import Cell, Scored
from runtime.service.desk import Desk

FEW_CELLS = 32  # which are scored before it is worth finding out whether the client still waits


async def score(request: Request, desk: Desk, cells: Sequence[Cell]) -> list[Scored]:
    """Score the cells of a request; where they are many and its client goes away, drop those that still wait."""
    if len(cells) <= FEW_CELLS:
        return await desk.score(cells)
    scoring = asyncio.ensure_future(desk.score(cells))
    leaving = asyncio.ensure_future(_leave(request))
    try:
        await asyncio.wait({scoring, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not scoring.done():
            raise ClientDisconnect
        return scoring.result()
    finally:
        scoring.cancel()
        leaving.cancel()


async def _leave(request: Request) -> None:
    """Return when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
