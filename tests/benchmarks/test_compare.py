"""That budgets are kept or not, and that a comparison knows the spread."""

from __future__ import annotations

import copy
import functools
import json
import math
import operator
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import compare
from benchmarks.record import failed, skipped
from benchmarks.rollout import comparison
from benchmarks.rollout.budget import Budget, judge_budget, read_budget, why_not_measured
from benchmarks.rollout.comparison import (
    BETTER,
    GONE,
    OTHER_FILES,
    OTHER_MACHINE,
    PEER_CHANGED,
    SAME,
    UNTOLD,
    WITHIN,
    WORSE,
    Measured,
    accuracy_verdict,
    corrected_tests,
    cost_verdict,
    holm,
)
from benchmarks.rollout.comparison import compare as compared
from benchmarks.rollout.record import read
from runtime.command_line import DONE, PARTLY_DONE, REFUSED
from runtime.errors import BackendError, DataError, UsageError
from runtime.schema import Tolerance
from tests.benchmarks.a_record import CASE, GOOD, LABELS, a_record
from train.comparison import DeLong

ROOT = Path(__file__).parents[2]


def written(folder: Path, name: str, record: dict[str, Any]) -> str:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    return str(path)


def verdicts(old: dict[str, Any], new: dict[str, Any]) -> dict[str, str]:
    return {row["figure"]: row["verdict"] for row in compared(old, new, 0.1)}


@pytest.mark.parametrize(
    ("new", "verdict"),
    [
        (Measured(10.5, 10.4, 10.6), SAME),  # apart, but less than a tenth
        (Measured(12, 10, 14), WITHIN),  # a fifth slower, but the ranges overlap
        (Measured(12, 11.9, 12.1), WORSE),
        (Measured(8, 7.9, 8.1), BETTER),
    ],
)
def test_a_time_is_worse_only_beyond_the_tolerance_and_the_spread(new: Measured, verdict: str) -> None:
    old = Measured(10, 9.8, 10.2)
    assert cost_verdict(old, new, new.value / old.value - 1, 0.1) == verdict


def test_several_records_of_the_old_bundle_are_taken_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = [[15.0, 15.1], [15.2, 15.3]]
    old, again = written(tmp_path, "old", a_record()), written(tmp_path, "again", a_record(windows=slow))
    same, slower = (
        written(tmp_path, name, a_record(windows=[[ms, ms]] * 2)) for name, ms in (("same", 15.2), ("slower", 20.0))
    )
    assert compare.main([old, same]) == REFUSED, "the machine was slow while the new record was taken"
    assert compare.main([old, again, same]) == DONE
    assert compare.main([again, old, same]) == DONE
    capsys.readouterr()
    assert compare.main([old, again, slower]) == REFUSED
    assert "12.65 (10.10 to 15.25)  20 " in capsys.readouterr().out, "the middle of both, and the range of both"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"bundle": {"content_sha256": "1" * 64}}, "The bundles differ"),
        ({"environment": {"cpu": "B", "cpus": 2, "gpus": []}}, r"The machines differ \(CPU A and B\)"),
    ],
)
def test_old_records_that_are_not_of_one_bundle_and_machine_are_refused(
    tmp_path: Path, change: dict[str, Any], found: str
) -> None:
    old, other = written(tmp_path, "old", a_record()), written(tmp_path, "other", a_record() | change)
    with pytest.raises(UsageError, match=f"expected the records before the last .*, found: {found}"):
        compare.main([old, other, old])


def test_other_work_beside_any_of_the_old_records_may_be_why_the_new_one_is_faster() -> None:
    fast = a_record(windows=[[5.0, 5.1], [5.0, 5.2]])
    rows = compared(a_record(), fast, 0.1, [a_record(others={"latency": 0.5})])
    assert {row["verdict"] for row in rows if "p50" in row["figure"]} == {UNTOLD}


def test_a_rate_is_worse_where_it_falls() -> None:
    old, new = Measured(10, 9.8, 10.2, more_is_better=True), Measured(8, 7.9, 8.1, more_is_better=True)
    assert cost_verdict(old, new, -0.2, 0.1) == WORSE


def test_the_same_record_has_nothing_worse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, "record", a_record())
    assert compare.main([path, path, "--all"]) == DONE
    said = capsys.readouterr().out
    assert "0 worse, 0 better, 0 cannot be told, 0 no longer measured, " in said
    assert "Both records are of the same bundle: what differs is the machine's or its software's doing" in said
    assert "Accuracy is tested on the same cells: the tests treat cells as independent" in said


@pytest.mark.parametrize(
    ("changes", "figure"),
    [
        ({"windows": [[13.0], [13.1], [12.9]]}, "cpu fp32, 1 at once, model: p50 ms"),
        ({"windows": [[13.0], [13.1], [12.9]]}, "cpu fp32, 1 at once, file to result: p95 ms"),
        ({"rates": [400.0, 410.0, 405.0]}, "cpu fp32, sustained: cells a minute"),
        ({"starts": [0.9, 1.0]}, "cpu fp32, cold start: s"),
        ({"memory": 200.0}, "cpu fp32: peak memory MB"),
    ],
)
def test_a_regression_is_found_and_makes_the_exit_code(changes: dict[str, Any], figure: str, tmp_path: Path) -> None:
    old, new = a_record(), a_record(**changes)
    assert verdicts(old, new)[figure] == WORSE
    assert verdicts(new, old)[figure] == BETTER
    assert compare.main([written(tmp_path, "old", old), written(tmp_path, "new", new)]) == REFUSED
    assert compare.main([written(tmp_path, "new", new), written(tmp_path, "old", old)]) == DONE


@pytest.mark.parametrize(
    ("quick", "exit_code"), [((False, False), REFUSED), ((True, False), DONE), ((True, True), DONE)]
)
def test_a_quick_record_knows_no_spread_from_run_to_run_and_finds_large_changes_alone(
    quick: tuple[bool, bool], exit_code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slower, twice = [[13.0], [13.1], [12.9]], [[20.0], [20.1], [19.9]]
    records = {"old": a_record(), "slower": a_record(windows=slower), "twice": a_record(windows=twice)}
    paths = {}
    for name, record in records.items():
        record["options"]["quick"] = quick[name == "old"]
        paths[name] = written(tmp_path, name, record)
    assert compare.main([paths["old"], paths["slower"]]) == exit_code
    told = "--quick times for moments: a time, rate or memory counts as changed only beyond 50%\n"
    assert (told in capsys.readouterr().out) is any(quick)
    assert compare.main([paths["old"], paths["twice"]]) == REFUSED
    assert compare.main([paths["old"], paths["slower"], "--tolerance", "0.1"]) == REFUSED


def test_another_deployed_case_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = a_record()
    new["deployed"] = {"backend": "cpu", "precision": "int8"}
    compare.main([written(tmp_path, "old", a_record()), written(tmp_path, "new", new)])
    assert "What is deployed differs (cpu fp32 and cpu int8)" in capsys.readouterr().out


def test_fewer_cells_decided_right_is_worse_where_it_is_no_chance() -> None:
    missed = np.flatnonzero(LABELS)
    few, many = GOOD.copy(), GOOD.copy()
    few[missed[:2]], many[missed[:8]] = 0.2, 0.2
    assert verdicts(a_record(), a_record(p_all=few))["cpu fp32: sensitivity"] == WITHIN
    found = verdicts(a_record(), a_record(p_all=many))
    assert (found["cpu fp32: sensitivity"], found["cpu fp32: specificity"]) == (WORSE, SAME)
    assert verdicts(a_record(p_all=many), a_record())["cpu fp32: sensitivity"] == BETTER


def test_p_values_that_are_judged_together_are_corrected_as_holm_says() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.6]) == [1, 1]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


def test_what_one_test_of_many_finds_by_chance_is_not_worse() -> None:
    six = GOOD.copy()
    six[np.flatnonzero(LABELS)[:6]] = 0.2  # exact p of McNemar: 2 * 0.5**6
    rows = {row["figure"]: row for row in compared(a_record(), a_record(p_all=six), 0.1)}
    assert (rows["cpu fp32: sensitivity"]["p"], rows["cpu fp32: sensitivity"]["verdict"]) == ("0.0938", WITHIN)
    assert (rows["cpu fp32: specificity"]["p"], rows["cpu fp32: specificity"]["verdict"]) == ("1", SAME)
    assert rows["cpu fp32: peak memory MB"]["p"] == ""


def test_the_tests_of_all_cases_are_corrected_together() -> None:
    missed = GOOD.copy()
    missed[np.flatnonzero(LABELS)[:8]] = 0.2
    old, new = (a_record(p_all=p_all)["sections"]["parity"] for p_all in (GOOD, missed))
    for parity in (old, new):
        parity["answers"]["cpu int8"] = old["answers"]["cpu fp32"]
    alone, both = (corrected_tests(old, new, names) for names in (["cpu fp32"], ["cpu fp32", "cpu int8"]))
    assert alone["cpu fp32", "sensitivity"].p_value == pytest.approx(3 * 2 * 0.5**8)
    assert both["cpu fp32", "sensitivity"].p_value == pytest.approx(6 * 2 * 0.5**8)


def test_a_test_that_is_not_defined_takes_no_part_and_gives_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    eight = GOOD.copy()
    eight[np.flatnonzero(LABELS)[:8]] = 0.2
    monkeypatch.setattr(comparison, "delong", lambda *_: DeLong(-0.1, float("nan"), float("nan")))
    rows = {row["figure"]: row for row in compared(a_record(), a_record(p_all=eight), 0.1)}
    assert rows["cpu fp32: sensitivity"]["p"] == f"{2 * 2 * 0.5**8:.3g}"
    assert (rows["cpu fp32: auc"]["p"], rows["cpu fp32: auc"]["verdict"]) == ("", SAME)


def test_accuracy_on_other_cells_is_judged_by_intervals() -> None:
    many = GOOD.copy()
    many[np.flatnonzero(LABELS)[:2]] = 0.2
    new = a_record(p_all=many)
    new["sections"]["parity"]["cells"][0]["sha256"] = "another"
    assert verdicts(a_record(), new)["cpu fp32: sensitivity"] in (WITHIN, WORSE)
    assert verdicts(a_record(), new)["cpu fp32: specificity"] == SAME


def test_a_variant_that_fails_its_parity_now_is_worse_whatever_the_tests_say() -> None:
    one = GOOD.copy()
    one[0] = 0.4
    new = a_record(p_all=one, tolerance=Tolerance(flipped=0.0))
    assert verdicts(a_record(), new)["cpu fp32: parity"] == WORSE
    assert verdicts(a_record(), new)["cpu fp32: sensitivity"] == WITHIN


def test_times_of_another_machine_are_not_judged_and_not_called_unchanged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = a_record(cpu="B", windows=[[99.0]] * 3)
    assert verdicts(a_record(), new)["cpu fp32, 1 at once, model: p50 ms"] == OTHER_MACHINE
    assert compare.main([written(tmp_path, "old", a_record()), written(tmp_path, "new", new)]) == DONE
    said = capsys.readouterr().out
    assert "The machines differ (CPU A and B)" in said
    counted = r"0 worse, 0 better, 0 cannot be told, 0 no longer measured, [1-9]\d* not judged .*, \d+ unchanged"
    assert re.fullmatch(counted, said.splitlines()[-1])


def test_of_other_files_or_batches_only_the_models_own_times_are_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = a_record(windows=[[99.0]] * 3, rates=[60.0], memory=900.0)
    slow["options"]["batch_size"] = 32
    found = verdicts(a_record(), slow)
    assert found["cpu fp32, 1 at once, model: p50 ms"] == WORSE
    for figure in (
        "cpu fp32, 1 at once, file to result: p50 ms",
        "cpu fp32, 1 at once, file to result: p95 ms",
        "cpu fp32, sustained: cells a minute",
        "cpu fp32: peak memory MB",
        "classify, times as fast as other",
    ):
        assert found[figure] == OTHER_FILES
    slow["data"]["source"] = "wide cells"
    slow["options"]["sustained_minutes"] = 1.0
    compare.main([written(tmp_path, "old", a_record()), written(tmp_path, "new", slow)])
    said = capsys.readouterr().out
    assert "What was timed differs (files of cells and wide cells, batch size 16 and 32)" in said
    assert "The sustained runs lasted 10 and 1 minutes" in said


def test_of_areas_without_any_variance_the_intervals_judge() -> None:
    right = np.where(LABELS, 0.75, 0.25).astype(np.float32)
    old, new = a_record(p_all=right), a_record(p_all=1 - right)
    parities = [record["sections"]["parity"] for record in (old, new)]
    tested = corrected_tests(parities[0], parities[1], ["cpu fp32"])
    assert ("cpu fp32", "auc") not in tested, "DeLong's test is not defined here"
    assert verdicts(old, new)["cpu fp32: auc"] == WORSE
    for parity in parities:
        parity["metrics"]["cpu fp32"]["auc"] |= {"low": 0.0, "high": 1.0}
    assert verdicts(old, new)["cpu fp32: auc"] == WITHIN


def test_where_a_test_finds_nothing_on_few_cells_intervals_that_lie_apart_count() -> None:
    assert accuracy_verdict(WITHIN, WORSE) == WORSE
    assert accuracy_verdict(BETTER, SAME) == BETTER
    assert accuracy_verdict(None, WITHIN) == WITHIN


@pytest.mark.parametrize(
    "peer", [{"ratio": 1.2, "lowest": 1.1, "highest": 1.3}, {"ratio": 9.0, "lowest": 8.0, "highest": 9.5}, {}]
)
def test_a_peer_that_became_faster_or_slower_or_is_gone_is_shown_and_no_regression(
    peer: dict[str, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = a_record(peer=peer)
    assert verdicts(a_record(), new)["classify, times as fast as other"] == PEER_CHANGED
    assert compare.main([written(tmp_path, "old", a_record()), written(tmp_path, "new", new)]) == DONE
    said = capsys.readouterr().out
    assert "classify, times as fast as other" in said
    assert "0 worse, 0 better, 0 cannot be told, 0 no longer measured, 1 changed beside a peer" in said


def test_a_peer_that_takes_as_long_as_classify_was_measured() -> None:
    alike = a_record(peer={"ratio": 1.0, "lowest": 0.9, "highest": 1.1})
    assert verdicts(a_record(), alike)["classify, times as fast as other"] == PEER_CHANGED
    assert verdicts(alike, alike)["classify, times as fast as other"] == SAME
    assert "classify, times as fast as classify" not in verdicts(alike, alike)


def test_what_was_not_measured_any_more_is_said(tmp_path: Path) -> None:
    new = a_record()
    new["sections"]["latency"]["rows"] = [{"backend": "cpu", "precision": "fp32", "status": "failed", "reason": "no"}]
    assert verdicts(a_record(), new)["cpu fp32, 1 at once, model: p50 ms"] == GONE
    assert compare.main([written(tmp_path, "old", a_record()), written(tmp_path, "new", new)]) == PARTLY_DONE


def test_what_the_old_record_lacks_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = a_record()
    for name in ("latency", "parity"):
        old["sections"][name] = {"rows": [{"status": "failed", "reason": "interrupted"}]}
    new = written(tmp_path, "new", a_record())
    assert compare.main([written(tmp_path, "old", old), new]) == DONE
    said = "4 figures of the new record were not measured for the old one: they are not compared\n"
    assert said in capsys.readouterr().out
    compare.main([new, new])
    assert said[1:] not in capsys.readouterr().out


def test_a_busy_machine_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare.main([written(tmp_path, "old", a_record(busy=True)), written(tmp_path, "new", a_record())])
    assert "While the old record was taken, other processes took up to 50% of the machine" in capsys.readouterr().out


@pytest.mark.parametrize(("times", "busy"), [(1.5, "new"), (1 / 1.5, "old")])
def test_what_was_slower_while_the_machine_was_busy_cannot_be_told(times: float, busy: str, tmp_path: Path) -> None:
    windows = [[times * ms for ms in window] for window in ([10.0, 10.2], [10.1, 10.3], [9.9, 10.4])]
    load = {name: {"busy": True, "others": {"latency": 0.4}} if name == busy else {} for name in ("old", "new")}
    old, new = a_record(**load["old"]), a_record(**load["new"], windows=windows)
    assert verdicts(old, new)["cpu fp32, 1 at once, model: p50 ms"] == UNTOLD
    assert compare.main([written(tmp_path, "old", old), written(tmp_path, "new", new)]) == PARTLY_DONE


@pytest.mark.parametrize(
    ("busy", "part"), [("old", "latency"), ("new", "sustained")], ids=["than on a busy machine", "load in another part"]
)
def test_what_other_work_cannot_have_made_slower_is_worse(busy: str, part: str) -> None:
    load = {name: {"busy": True, "others": {part: 0.4}} if name == busy else {} for name in ("old", "new")}
    old, new = a_record(**load["old"]), a_record(**load["new"], windows=[[13.0], [13.1], [12.9]])
    assert verdicts(old, new)["cpu fp32, 1 at once, model: p50 ms"] == WORSE


def test_accuracy_and_memory_are_judged_on_a_busy_machine_too() -> None:
    load = {"busy": True, "others": dict.fromkeys(("cold_start", "parity"), 0.9)}
    missed = GOOD.copy()
    missed[np.flatnonzero(LABELS)[:8]] = 0.2
    found = verdicts(a_record(), a_record(**load, memory=200.0, p_all=missed, starts=[0.9, 1.0]))
    worse = {figure for figure, verdict in found.items() if verdict == WORSE}
    assert worse == {"cpu fp32: peak memory MB", "cpu fp32: sensitivity"}
    untold = {figure for figure, verdict in found.items() if verdict == UNTOLD}
    assert untold == {"cpu fp32, cold start: s"}


def test_starts_that_were_measured_once_have_no_range_to_judge_by() -> None:
    found = verdicts(a_record(starts=[0.5]), a_record(starts=[0.9], memory=200.0))
    assert (found["cpu fp32, cold start: s"], found["cpu fp32: peak memory MB"]) == (UNTOLD, UNTOLD)


def test_memory_is_judged_by_the_range_of_its_repetitions() -> None:
    old, new = a_record(), a_record()
    for record, peaks in ((old, [140.0, 159.0]), (new, [158.0, 180.0])):
        record["sections"]["cold_start"]["rows"][0]["peaks_mb"] = peaks
    assert verdicts(old, new)["cpu fp32: peak memory MB"] == WITHIN


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected a record of benchmarks.rollout at .*, found: "),
        ('{"measurement": "latency"}', "found another file"),
        ('{"measurement": "rollout", "schema_version": 99}', "expected a record of schema version 6 at .*, found 99"),
        ('{"measurement": "rollout", "schema_version": 6}', "missing environment, bundle"),
    ],
)
def test_what_is_no_record_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(DataError, match=message):
        compare.main([str(tmp_path), str(tmp_path)])


def places(value: Any) -> Iterator[list[Any]]:
    """Yield the way to each value inside another, of a list to the first one alone."""
    for key in [*value] if isinstance(value, dict) else range(len(value[:1])) if isinstance(value, list) else ():
        yield [key]
        yield from ([key, *inner] for inner in places(value[key]))


@pytest.mark.parametrize("value", ["a text", None, [], {}, [[]], math.nan, 10**400, "removed"])
def test_a_record_that_was_edited_by_hand_is_compared_or_refused_in_a_sentence(value: Any, tmp_path: Path) -> None:
    good, refused = written(tmp_path, "record", a_record()), 0
    for *parents, last in places(a_record()):
        edited = copy.deepcopy(a_record())
        parent = functools.reduce(operator.getitem, parents, edited)
        parent[last] = value
        if value == "removed":
            del parent[last]
        try:
            compare.main([written(tmp_path, "edited", edited), good])
        except DataError:
            refused += 1
    assert refused > 70


def test_a_record_that_was_edited_by_hand_says_where(tmp_path: Path) -> None:
    edited = a_record()
    edited["sections"]["latency"]["rows"][1]["windows_ms"][2][0] = "9.9"
    with pytest.raises(DataError, match=r"expected a record .*, found a row of latency: windows_ms '9\.9'; measure"):
        read(Path(written(tmp_path, "edited", edited)))
    edited = a_record()
    edited["sections"]["parity"]["answers"]["cpu fp32"].pop()
    with pytest.raises(DataError, match="found parity: another number of answers of cpu fp32 than of cells"):
        read(Path(written(tmp_path, "edited", edited)))
    with pytest.raises(DataError, match="found load: busy, and none of the others"):
        read(Path(written(tmp_path, "edited", a_record(busy=True) | {"load": {"busy": True, "others": {}}})))


def test_a_device_that_throttles_late_is_worse_and_keeps_no_limit_that_it_misses_over_all_the_time() -> None:
    steady, throttled = a_record(rates=[1000.0] * 10), a_record(rates=[1000.0] * 6 + [100.0] * 4)
    assert verdicts(steady, throttled)["cpu fp32, sustained: cells a minute"] == WORSE
    assert verdicts(throttled, steady)["cpu fp32, sustained: cells a minute"] == BETTER
    [row] = judge_budget(Budget(cells_per_second=15.0), throttled)
    assert (row["found"], row["kept"]) == (10.666667, False)


def test_slots_that_go_up_and_down_make_no_rate_worse() -> None:
    old, new = a_record(rates=[800.0, 1200.0] * 3), a_record(rates=[700.0, 1050.0] * 3)
    assert verdicts(old, new)["cpu fp32, sustained: cells a minute"] == WITHIN


def test_a_sustained_run_of_one_slot_is_compared_without_a_range() -> None:
    one = a_record(rates=[300.0])
    one["sections"]["sustained"]["rows"][0]["last_to_first"] = None
    assert verdicts(one, one)["cpu fp32, sustained: cells a minute"] == SAME
    [row] = judge_budget(Budget(slowdown=0.05), one)
    assert (row["found"], row["kept"]) == (None, False)


def test_a_limit_on_a_cost_is_kept_up_to_it_and_one_on_a_rate_down_to_it() -> None:
    record = a_record()
    kept = {
        row["limit"]: row["kept"]
        for limit in (9.9, 10.0, 11.0)
        for row in judge_budget(Budget(p50_ms=limit, cells_per_second=limit), record)
        if row["limit"] == "cells_per_second" or limit == 9.9
    }
    assert kept == {"p50_ms": False, "cells_per_second": False}
    [row] = judge_budget(Budget(cells_per_second=10.0), record)
    assert (row["found"], row["kept"], row["sense"]) == (10.0, True, "at least")


def test_a_limit_is_kept_at_exactly_its_value_though_it_rounds_up() -> None:
    record = a_record()  # the last third of it ran at 0.95 of the first: 1 - 0.95 is 0.050000000000000044
    assert [judge_budget(Budget(slowdown=limit), record)[0]["kept"] for limit in (0.05, 0.0499)] == [True, False]
    record["sections"]["parity"]["proofs"]["cpu fp32"]["variant"]["auc"] = 0.1 + 0.7  # 0.7999999999999999
    assert [judge_budget(Budget(auc=limit), record)[0]["kept"] for limit in (0.8, 0.8001)] == [True, False]


def test_every_limit_is_found_in_a_record() -> None:
    flipped = GOOD.copy()
    flipped[0] = 0.4  # one of thirty ALL cells
    rows = judge_budget(Budget(**dict.fromkeys(Budget.__dataclass_fields__, 0.5)), a_record(p_all=flipped))
    found = {row["limit"]: row["found"] for row in rows}
    assert found["delta_sensitivity"] == pytest.approx(1 / 30, abs=1e-5)
    assert found["flipped"] == pytest.approx(1 / 60, abs=1e-5)
    assert found["slowdown"] == pytest.approx(0.05)
    assert (found["memory_mb"], found["cold_start_s"], found["specificity"]) == (150, 0.6, 1)
    assert None not in found.values()


def test_what_was_not_measured_keeps_no_limit() -> None:
    record = a_record()
    record["sections"]["parity"] = {"rows": [{"status": "skipped", "reason": "no data"}]}
    [row] = judge_budget(Budget(delta_sensitivity=1.0), record)
    assert (row["found"], row["kept"]) == (None, False)


def test_what_the_others_are_compared_with_has_no_change_of_its_own() -> None:
    record = a_record()
    record["sections"]["parity"]["reference_case"] = "cpu fp32"
    rows = judge_budget(Budget(delta_sensitivity=1.0, delta_auc=1.0, flipped=1.0, sensitivity=0.5), record)
    assert {row["limit"]: row["kept"] for row in rows} == {
        "delta_sensitivity": False,
        "delta_auc": False,
        "flipped": False,
        "sensitivity": True,
    }


def test_a_limit_that_was_not_measured_says_why() -> None:
    record = a_record()
    record["sections"]["parity"]["reference_case"] = "cpu fp32"
    assert why_not_measured("delta_auc", record) == (
        "cpu fp32 is itself what the others are compared with; give the Keras model's run with --run"
    )
    record["sections"]["parity"] = {"rows": [skipped("no data")]}
    assert why_not_measured("delta_auc", record) == "no data"
    rows = [CASE | {"precision": "int8"} | failed(BackendError("another")), CASE | failed(BackendError("no memory"))]
    record["sections"]["cold_start"]["rows"] = rows
    assert why_not_measured("memory_mb", record) == "no memory"
    record["deployed"] = CASE | {"precision": "fp16"}
    assert why_not_measured("memory_mb", record) == ""


def test_a_budget_is_read_from_toml_and_json(tmp_path: Path) -> None:
    (tmp_path / "budget.toml").write_text("p95_ms = 20\ndelta_sensitivity = 0.005\n")
    (tmp_path / "budget.json").write_text('{"p95_ms": 20, "delta_sensitivity": 0.005}', encoding="utf-8-sig")
    expected = Budget(p95_ms=20, delta_sensitivity=0.005)
    assert read_budget(tmp_path / "budget.toml") == read_budget(tmp_path / "budget.json") == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"sensitivity": 95}', "expected sensitivity in .* to be a share from 0 to 1, found 95"),
        ('{"delta_auc": 1.5}', "expected delta_auc in .* to be a share from 0 to 1, found 1.5"),
        ('{"p95": 20}', "expected the limits p50_ms, p95_ms, .*, found p95; correct it"),
        ('{"p95_ms": "20"}', "expected p95_ms in .* to be a number of 0 or more, found '20'"),
        ('{"p95_ms": -1}', "found -1"),
        ('{"p95_ms": true}', "found True"),
        (f'{{"p95_ms": {10**400}}}', "found 1000"),
        ("{}", "expected at least one limit"),
        ("[]", "a table of limits, found list"),
        ("p95_ms", "expected a budget in TOML or JSON at"),
        ('{"p95_ms": 20, "p95_ms": 30}', "expected a budget in .*p95_ms, p95_ms, of which one is given twice"),
    ],
)
def test_what_is_no_budget_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "budget.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        read_budget(tmp_path / "budget.json")


def test_a_budget_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_budget(tmp_path / "budget.toml")


def test_a_budget_that_the_new_record_does_not_keep_makes_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, "record", a_record())
    (tmp_path / "budget.json").write_text('{"p50_ms": 5, "memory_mb": 500}')
    assert compare.main([path, path, "--budget", str(tmp_path / "budget.json")]) == REFUSED
    assert "p50_ms" in capsys.readouterr().out


def test_without_scipy_it_names_the_extra_that_is_enough() -> None:
    code = """
import runpy, sys

class Missing:
    def find_spec(self, name, *_):
        if name == "scipy":
            raise ModuleNotFoundError("No module named 'scipy'", name=name)

sys.meta_path.insert(0, Missing())
sys.argv = ["compare", "old", "new"]
runpy.run_module("benchmarks.compare", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (
        REFUSED,
        'error: expected scipy for this command, found none; pip install -e ".[train]"; '
        'to measure, -e ".[benchmarks]" is enough\n',
    )
