"""Takes all measurements of a rollout, one after the other; what fails is a row that says so."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from benchmarks.environment import environment
from benchmarks.record import FAILED, failed, finite, skipped
from benchmarks.rollout.budget import Budget, judge_budget
from benchmarks.rollout.busy import LoadWatch, busiest_processes
from benchmarks.rollout.cases import Case, cases_of, deployed_case
from benchmarks.rollout.cold_start import cold_start
from benchmarks.rollout.latency import latency
from benchmarks.rollout.material import Material
from benchmarks.rollout.options import RolloutOptions
from benchmarks.rollout.parity import parity
from benchmarks.rollout.peers import peers
from benchmarks.rollout.record import INTERRUPTED, MEASUREMENT, SCHEMA_VERSION, Record
from benchmarks.rollout.scaling import scaling
from benchmarks.rollout.sensors import Sensors
from benchmarks.rollout.sustained import sustained
from benchmarks.rollout.verdict import verdict_of
from runtime.bundle import Bundle
from runtime.errors import AllnetError

BEFORE = "before"
Section = dict[str, Any]


def measure(
    options: RolloutOptions, bundle: Bundle, material: Material, budget: Budget | None, tell: Callable[[str], None]
) -> Record:
    """Return the record of a rollout; after Ctrl-C it says of what was not measured that it failed.

    Raises BackendError or BundleError where what is to be deployed cannot be opened, KeyboardInterrupt where Ctrl-C
    came before any part was measured.
    """
    deployed = deployed_case(bundle, options)
    cases = cases_of(bundle, options, deployed)
    watch = LoadWatch()
    processes = busiest_processes(options.quiet_seconds)
    watch.note(BEFORE)
    with Sensors() as sensors:
        sections = _sections(_works(options, bundle, material, deployed, cases, sensors), watch, tell)
    record: Record = {
        "schema_version": SCHEMA_VERSION,
        "measurement": MEASUREMENT,
        "environment": asdict(environment(options.bundle)),
        "bundle": _about(bundle),
        "options": options.as_record(),
        "deployed": asdict(deployed),
        "data": {"source": material.source, "timed_files": len(material.paths), "left_out": material.left_out},
        "load": {"others": watch.shares, "busy": watch.is_busy, "processes_before": processes},
        "sections": finite(sections),
    }
    record["budget"] = judge_budget(budget, record) if budget else None
    record["verdict"] = verdict_of(record)
    return record


def _works(
    options: RolloutOptions,
    bundle: Bundle,
    material: Material,
    deployed: Case,
    cases: list[Case],
    sensors: Sensors,
) -> dict[str, Callable[[], Section]]:
    """Return the parts of the rollout in their order: what other parts leave in memory must not slow down the first."""
    paths = material.paths
    return {
        "cold_start": lambda: cold_start(options, cases, paths),
        "latency": lambda: latency(options, cases, paths),
        "scaling": lambda: scaling(options, deployed, paths),
        "sustained": lambda: sustained(options, deployed, paths, sensors),
        "parity": lambda: _parity(options, bundle, cases, material),
        "peers": lambda: peers(options, deployed, paths),
    }


def _sections(
    works: dict[str, Callable[[], Section]], watch: LoadWatch, tell: Callable[[str], None]
) -> dict[str, Section]:
    """Measure one part after the other; Ctrl-C ends that, and what was measured is kept, if anything was."""
    sections: dict[str, Section] = {}
    try:
        for name, work in works.items():
            sections[name] = _taken(name, work, watch, tell)
    except KeyboardInterrupt:
        if not sections:
            raise
        tell("interrupted: what was measured so far is kept")
    left = {name: {"rows": [{"status": FAILED, "reason": INTERRUPTED}]} for name in works if name not in sections}
    return sections | left


def _taken(name: str, work: Callable[[], Section], watch: LoadWatch, tell: Callable[[str], None]) -> Section:
    tell(f"measuring: {name.replace('_', ' ')}")
    try:
        section = work()
    except Exception as error:  # the other parts are measured all the same
        if not isinstance(error, AllnetError):
            traceback.print_exc(file=sys.stderr)
        section = {"rows": [failed(error)]}
    watch.note(name)
    return section


def _parity(options: RolloutOptions, bundle: Bundle, cases: list[Case], material: Material) -> Section:
    if options.data is None:
        return {"rows": [skipped("no labelled data was given (--data): latency only")]}
    if material.no_labels is not None:
        raise material.no_labels
    return parity(options, bundle, cases, material.cells)


def _about(bundle: Bundle) -> dict[str, Any]:
    training = bundle.manifest.training
    return {
        "folder": str(bundle.folder),
        "model": training.config.options.model,
        "content_sha256": bundle.content_sha256,
        "image": asdict(bundle.manifest.image),
        "threshold": bundle.manifest.decision.threshold,
        "variants": [
            {
                "precision": variant.precision,
                "sha256": variant.sha256,
                "mb": round(bundle.path(variant).stat().st_size / 2**20, 2),
                "proved": variant.proof.passed,
            }
            for variant in bundle.manifest.variants
        ],
    }
