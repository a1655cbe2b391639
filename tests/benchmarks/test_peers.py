from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from benchmarks import peers
from benchmarks.peers import Workload, keras_predict
from runtime.bundle import DEFAULT_BUNDLE, Bundle
from runtime.classifier import Classifier, ClassifierOptions
from runtime.errors import BackendError


def test_keras_answers_calibrated(bundle: Path, finished_run: Path, drawn: Path) -> None:
    opened = Bundle.open(bundle)
    decision = opened.manifest.decision
    cooler = replace(opened, manifest=replace(opened.manifest, decision=replace(decision, temperature=2.0)))
    paths = [str(path) for path in sorted(drawn.glob("*/*.bmp"))[::5]]
    workload = Workload(cooler, opened.path(opened.variant("fp32")), paths, batch_size=4, run=finished_run)
    with Classifier(ClassifierOptions(bundle, backend="cpu", precision="fp32")) as classifier:
        p_all = np.array([prediction.p_all for prediction in classifier.classify(paths)], np.float64)
    logit = np.log(p_all / (1 - p_all)) * decision.temperature
    np.testing.assert_allclose(np.asarray(keras_predict(workload)()), 1 / (1 + np.exp(-logit / 2.0)), atol=1e-4)


@pytest.mark.parametrize("missing", [[], [*peers.GPU_PROVIDERS][:1]])
def test_those_on_a_gpu_that_are_at_hand_come_in_the_order_of_their_table(
    missing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "missing_gpu_peers", lambda: dict.fromkeys(missing, "no such provider"))
    monkeypatch.setattr(peers, "why_no_keras", lambda _: "not at hand")
    at_hand = [name for name in peers.GPU_PROVIDERS if name not in missing]
    opened = peers.openers(Mock(), peers.missing_peers(Mock()))
    assert [name for name in opened if name in peers.GPU_PROVIDERS] == at_hand


@pytest.mark.parametrize(
    "run", [peers.bare_session, lambda file, provider: peers.resident_session(file, provider, "cpu")]
)
def test_a_session_on_another_provider_than_asked_for_is_not_timed(run: Any) -> None:
    opened = Bundle.open(DEFAULT_BUNDLE)
    with pytest.warns(UserWarning, match="not in available"), pytest.raises(BackendError, match="fell back to CPU"):
        run(opened.path(opened.variant("fp32")), "CUDAExecutionProvider")
