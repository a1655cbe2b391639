"""The queue before the model: order, turns, bounds, faults, the end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the service needs it: pip install -e '.[serve]'")

from runtime.errors import BackendError
from runtime.pipeline import Cell, Scored
from runtime.reading import Reading
from runtime.service.batcher import Batcher
from runtime.service.problems import BusyError, RequestError
from tests.runtime.service_help import wait_until

PATIENCE_S = 30.0
Score = Callable[[Sequence[Cell]], list[Scored]]


def cells(*names: str) -> list[Cell]:
    return [Cell(name, lambda: Reading(None)) for name in names]


def scored(batch: Sequence[Cell]) -> list[Scored]:
    return [Scored(cell.path, 0.5, "", "", "", 0.0) for cell in batch]


def names_of(answer: Future[list[Scored]]) -> list[str]:
    return [one.path for one in answer.result(PATIENCE_S)]


class Gate:
    """Holds the first batch back, and remembers the batches."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.may_go = threading.Event()
        self.batches: list[list[str]] = []

    def score(self, batch: Sequence[Cell]) -> list[Scored]:
        self.batches.append([cell.path for cell in batch])
        self.begun.set()
        assert self.may_go.wait(PATIENCE_S)
        return scored(batch)


def batcher(score: Score, *, batch_size: int = 4, workers: int = 1, most: int = 10_000) -> Batcher:
    return Batcher(score, batch_size=batch_size, workers=workers, most_waiting=most, prove=lambda: None)


def test_cells_come_back_in_their_order_whoever_scores_them() -> None:
    with batcher(scored, workers=4) as queue:
        requests = [[f"{request}-{cell}" for cell in range(request % 30)] for request in range(200)]
        answers = [queue.submit(cells(*names)) for names in requests]
        assert [names_of(answer) for answer in answers] == requests


def test_many_clients_never_get_each_others_cells() -> None:
    wrong: list[list[str]] = []

    def ask(client: int) -> None:
        for turn in range(50):
            names = [f"{client}-{turn}-{cell}" for cell in range(turn % 7 + 1)]
            if names_of(queue.submit(cells(*names))) != names:
                wrong.append(names)

    with batcher(scored, workers=3) as queue:
        clients = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
    assert not wrong


def test_a_lone_cell_does_not_wait_for_the_many_of_another_request() -> None:
    gate = Gate()
    with batcher(gate.score) as queue:
        first = queue.submit(cells("first"))
        assert gate.begun.wait(PATIENCE_S)
        many = queue.submit(cells(*map(str, range(20))))
        lone = queue.submit(cells("lone"))
        gate.may_go.set()
        assert [names_of(answer) for answer in (first, lone)] == [["first"], ["lone"]]
        assert len(names_of(many)) == 20
    assert gate.batches[0] == ["first"], "it does not wait for a full batch"
    assert "lone" in gate.batches[1], "requests take turns"


def test_what_is_left_of_a_batch_waits_on_in_its_order() -> None:
    gate = Gate()

    def first_of(batch: Sequence[Cell]) -> list[Scored]:
        return gate.score(batch)[:1]

    with batcher(first_of, batch_size=4) as queue:
        first = queue.submit(cells("first"))
        assert gate.begun.wait(PATIENCE_S)
        many = queue.submit(cells(*map(str, range(9))))
        lone = queue.submit(cells("lone"))
        given_up = queue.submit(cells("x", "y"))
        assert given_up.cancel()
        gate.may_go.set()
        assert [names_of(answer) for answer in (first, lone)] == [["first"], ["lone"]]
        assert names_of(many) == [*map(str, range(9))]
        assert queue.waiting == 0
    assert gate.batches[1][:2] == ["0", "lone"]
    assert gate.batches[2][0] == "lone"


def test_a_request_that_is_given_up_while_it_is_scored_does_not_wait_on() -> None:
    gate = Gate()
    with batcher(lambda batch: gate.score(batch)[:1]) as queue:
        given_up = queue.submit(cells("x", "y", "z"))
        assert gate.begun.wait(PATIENCE_S)
        assert given_up.cancel()
        gate.may_go.set()
        assert names_of(queue.submit(cells("after"))) == ["after"]
        assert queue.waiting == 0
    assert gate.batches == [["x", "y", "z"], ["after"]]


def test_idle_workers_share_what_waits() -> None:
    together = threading.Barrier(2, timeout=PATIENCE_S)

    def score(batch: Sequence[Cell]) -> list[Scored]:
        together.wait()
        return scored(batch)

    with batcher(score, batch_size=16, workers=2) as queue:
        assert len(names_of(queue.submit(cells("a", "b")))) == 2


def test_a_full_queue_takes_nothing_more() -> None:
    gate = Gate()
    with batcher(gate.score, most=2) as queue:
        taken = [queue.submit(cells("first"))]
        assert gate.begun.wait(PATIENCE_S)
        taken.append(queue.submit(cells("a", "b", "c")))
        with pytest.raises(BusyError, match="fewer than 2 waiting cells, found 3"):
            queue.submit(cells("d"))
        gate.may_go.set()
        assert [len(names_of(answer)) for answer in taken] == [1, 3]
        assert queue.waiting == 0


def test_what_was_taken_is_answered_when_it_is_closed() -> None:
    gate = Gate()
    queue = batcher(gate.score)
    answers = [queue.submit(cells(*map(str, range(10)))) for _ in range(5)]
    gate.may_go.set()
    queue.close()
    assert all(answer.done() and len(answer.result()) == 10 for answer in answers)
    with pytest.raises(BusyError, match="stopping"):
        queue.submit(cells("late"))


def test_a_request_that_was_given_up_is_not_scored() -> None:
    gate = Gate()
    with batcher(gate.score) as queue:
        queue.submit(cells("first"))
        assert gate.begun.wait(PATIENCE_S)
        given_up = queue.submit(cells("x", "y"))
        assert given_up.cancel()
        last = queue.submit(cells("last"))
        gate.may_go.set()
        assert names_of(last) == ["last"]
        assert queue.waiting == 0
    assert gate.batches == [["first"], ["last"]]


def test_when_all_that_waits_is_given_up_the_next_request_is_scored() -> None:
    gate = Gate()
    with batcher(gate.score) as queue:
        queue.submit(cells("first"))
        assert gate.begun.wait(PATIENCE_S)
        assert queue.submit(cells("x", "y")).cancel()
        gate.may_go.set()
        wait_until(lambda: queue.waiting == 0)
        assert names_of(queue.submit(cells("after"))) == ["after"]
    assert gate.batches == [["first"], ["after"]]


def test_a_batch_that_fails_costs_its_requests_alone() -> None:
    def score(batch: Sequence[Cell]) -> list[Scored]:
        if any(cell.path.startswith("bad") for cell in batch):
            raise BackendError("out of\nmemory")
        return scored(batch)

    with batcher(score, batch_size=1, workers=2) as queue:
        bad = queue.submit(cells("good", "bad", *map(str, range(20))))
        with pytest.raises(RequestError, match="could not score the cells: out of memory") as failed:
            bad.result(PATIENCE_S)
        assert failed.value.status == 503
        assert names_of(queue.submit(cells("after"))) == ["after"]
        assert queue.waiting == 0
        assert not queue.fault


def test_a_model_at_fault_takes_nothing_more() -> None:
    def fail(*_: object) -> Any:
        raise BackendError("self-test failed")

    with Batcher(fail, batch_size=4, workers=2, most_waiting=9, prove=fail) as queue:
        with pytest.raises(RequestError):
            queue.submit(cells("a")).result(PATIENCE_S)
        with pytest.raises(RequestError, match="found: self-test failed"):
            queue.submit(cells("b"))


def test_a_model_at_fault_answers_none_of_those_that_wait_or_are_on_the_way() -> None:
    on_the_way, may_go = threading.Event(), threading.Event()

    def score(batch: Sequence[Cell]) -> list[Scored]:
        [cell] = batch
        if cell.path == "bad":
            assert on_the_way.wait(PATIENCE_S)
            raise BackendError("out of memory")
        on_the_way.set()
        assert may_go.wait(PATIENCE_S)
        return scored(batch)

    def fail() -> None:
        raise BackendError("self-test failed")

    with Batcher(score, batch_size=1, workers=2, most_waiting=9, prove=fail) as queue:
        answers = [queue.submit(cells(name)) for name in ("bad", "on the way", "waits")]
        with pytest.raises(RequestError, match="out of memory"):
            answers[0].result(PATIENCE_S)
        may_go.set()
        for answer in answers[1:]:
            with pytest.raises(RequestError, match="found: self-test failed"):
                answer.result(PATIENCE_S)
        assert queue.waiting == 0


def test_a_bug_while_scoring_leaves_its_trace_and_a_running_queue(capfd: pytest.CaptureFixture[str]) -> None:
    def score(batch: Sequence[Cell]) -> list[Scored]:
        if batch[0].path == "bug":
            raise ZeroDivisionError("a bug")
        return scored(batch)

    with batcher(score) as queue:
        with pytest.raises(RequestError):
            queue.submit(cells("bug")).result(PATIENCE_S)
        assert names_of(queue.submit(cells("after"))) == ["after"]
    assert "ZeroDivisionError: a bug" in capfd.readouterr().err
