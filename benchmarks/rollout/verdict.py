"""The verdict on a rollout: whether the bundle may be deployed, why, and how far the figures can be trusted."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.latency import FILE_TO_RESULT
from benchmarks.record import FAILED, OK, SKIPPED, Row
from benchmarks.rollout.budget import why_not_measured
from benchmarks.rollout.record import INTERRUPTED, Record, case_name, failures_of, lasted, measured_rows
from benchmarks.windows import AGREEMENT
from export.fewest_cells import too_few_to_prove

YES, NO, OPEN = "yes", "no", "open"
CHANCE_AUC = 0.5
WARM_MINUTES = 10.0  # of work, after which a device that slows down when it is warm has shown it


def verdict_of(record: Record) -> Row:
    """Say whether the bundle may be deployed, and why.

    "no": a variant fails its parity, a limit of the budget is not kept, the model gives every cell one label, or
    nothing could be measured. "open": nothing speaks against it, but something failed or there was nothing to judge it
    by. `cautions` change no answer: they say how far the figures can be trusted.
    """
    against = list(_reasons_against(record))
    unsure = list(_reasons_to_wait(record))
    answer = NO if against else OPEN if unsure else YES
    return {"may_be_deployed": answer, "against": against, "unsure": unsure, "cautions": list(_cautions(record))}


def _reasons_against(record: Record) -> Iterator[str]:
    was_interrupted = any(row["reason"] == INTERRUPTED for _, row in failures_of(record))
    if not measured_rows(record, "latency") and not was_interrupted:
        yield "nothing could be measured"
    deployed = record["deployed"]["precision"]
    if not all(variant["proved"] for variant in record["bundle"]["variants"] if variant["precision"] == deployed):
        yield f"the bundle's {deployed} is not proved: runtime.classify refuses it"
    yield from _failed_parity(record)
    parity = record["sections"]["parity"]
    if label := _metrics(record).get("constant"):
        yield f"a constant classifier: it calls each of the {len(parity['cells'])} labelled cells {label}"
    for row in record["budget"] or []:
        if not row["kept"]:
            expected = f"expected {row['sense']} {row['value']:g}"
            if row["found"] is None:
                why = why_not_measured(row["limit"], record)
                yield f"budget: {row['limit']} is not measured, {expected}{f': {why}' if why else ''}"
            else:
                yield f"budget: {row['limit']} is {row['found']:g}, {expected}"


def _failed_parity(record: Record) -> Iterator[str]:
    proofs = record["sections"]["parity"].get("proofs", {})
    deployed = case_name(record["deployed"])
    for name, proof in proofs.items():
        beside = ""
        if name != deployed and deployed in proofs:
            beside = f" (deployed is {deployed}, which {'failed too' if proofs[deployed]['failures'] else 'passed'})"
        for failure in proof["failures"]:
            yield f"parity of {name}{beside}: {failure}"


def _metrics(record: Record) -> Row:
    """Return the metrics of what is to be deployed; nothing where it has none, or the cells are too few to judge by."""
    parity = record["sections"]["parity"]
    metrics: Row = parity.get("metrics", {}).get(case_name(record["deployed"]), {})
    return {} if metrics and too_few_to_prove(cell["label"] for cell in parity["cells"]) else metrics


def _reasons_to_wait(record: Record) -> Iterator[str]:
    for name, row in failures_of(record):
        subject = (
            row.get("variant")
            or row.get("peer")
            or " ".join(str(row[key]) for key in ("backend", "precision") if key in row)
        )
        yield f"{name}{f' of {subject}' if subject else ''} failed: {row['reason']}"
    parity = record["sections"]["parity"]
    for row in parity["rows"]:
        if row["status"] not in (OK, FAILED):
            yield f"parity was not judged: {row['reason']}"
    yield from parity.get("doubts", [])
    if (auc := _metrics(record).get("auc")) and auc["low"] <= CHANCE_AUC:
        yield (
            f"on these cells the model may be no better than chance: its AUC is {auc['value']:.3f} ({auc['low']:.3f} "
            f"to {auc['high']:.3f}); look whether the labels are right, and whether it was made for such cells"
        )
    if record["budget"] is None:
        yield "no budget was given"


def _cautions(record: Record) -> Iterator[str]:
    if record["load"]["busy"]:
        most = max(record["load"]["others"].values())
        yield (
            f"the machine was busy: other processes took up to {most:.0%} of its CPUs, so times are longer and ratios "
            "to the peers smaller than on a quiet one"
        )
    yield from _unsteady(record)
    yield from _slower_when_warm(record)
    yield from _left_out(record)
    yield from _unreadable(record)


def _unsteady(record: Record) -> Iterator[str]:
    timings = [row for name in ("latency", "scaling") for row in measured_rows(record, name)]
    unsteady = [row for row in timings if row.get("agreed") is False]
    if unsteady:
        single = {**record["deployed"], "measured": FILE_TO_RESULT, "cells": 1}
        told = any(single.items() <= row.items() for row in unsteady)
        which = f", a single file on {case_name(record['deployed'])} among them" if told else ""
        yield (
            f"{len(unsteady)} of {len(timings)} timings are unsteady{which}: their windows did not agree within "
            f"{AGREEMENT:.0%}"
        )


def _slower_when_warm(record: Record) -> Iterator[str]:
    rows = measured_rows(record, "sustained")
    slowed = [row["last_to_first"] for row in rows if row.get("slowed_down")]
    for share in slowed:
        yield f"the machine slowed down: the sustained run's last third had {share:.1%} of the first one's rate"
    if any(row.get("throttled") for row in rows):
        yield "the machine throttled in the sustained run, as its sensors tell"
    if not slowed and record["options"]["sustained_minutes"] < WARM_MINUTES:
        yield f"a sustained run of {lasted(record)} does not show whether the machine slows down when it is warm"


def _left_out(record: Record) -> Iterator[str]:
    for name in ("cold_start", "latency"):
        rows = [row for row in record["sections"][name]["rows"] if row["status"] == SKIPPED]
        if rows:
            cases = ", ".join(map(case_name, rows))
            yield f"{name.replace('_', ' ')} of {cases} was not measured: {rows[0]['reason']}"


def _unreadable(record: Record) -> Iterator[str]:
    parity = record["sections"]["parity"]
    if lost := parity.get("unreadable"):
        path, reason = next(iter(lost.items()))
        yield (
            f"{len(lost):,} of {len(lost) + len(parity['cells']):,} labelled cells could not be read and are not "
            f"judged, such as {path}: {reason}"
        )
