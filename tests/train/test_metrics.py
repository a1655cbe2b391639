from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, recall_score, roc_auc_score

from runtime.errors import DataError
from train.metrics import METRIC_NAMES, measure, metrics_table


def scored(count: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.random(count) < 0.68
    return labels, np.clip(rng.normal(0.35 + 0.3 * labels, 0.2), 0, 1)


def test_the_five_metrics_are_scikit_learns() -> None:
    labels, p_all = scored()
    called = p_all >= 0.4
    metrics = measure(labels, p_all, 0.4)
    expected = {
        "accuracy": accuracy_score(labels, called),
        "sensitivity": recall_score(labels, called),
        "specificity": recall_score(labels, called, pos_label=0),
        "auc": roc_auc_score(labels, p_all),
        "f1": f1_score(labels, called),
    }
    for name, value in expected.items():
        assert getattr(metrics, name).value == pytest.approx(value, abs=1e-6)


def test_the_papers_constant_classifier_is_called_that() -> None:
    # Table I, row Inception: 2138 cells of which 70.1123 % are ALL, all of them called ALL.
    labels = np.arange(2138) < 1499
    metrics = measure(labels, np.full(2138, 0.9), 0.5)
    assert metrics.accuracy.value == pytest.approx(0.701123, abs=1e-6)
    assert (metrics.sensitivity.value, metrics.specificity.value, metrics.auc.value) == (1, 0, 0.5)
    assert metrics.f1.value == pytest.approx(0.82430, abs=1e-5)
    assert metrics.constant == "ALL"
    assert "constant classifier: it calls every cell ALL" in metrics_table({"inception": metrics})


def test_the_intervals_hold_the_truth_about_as_often_as_they_promise() -> None:
    held = dict.fromkeys(METRIC_NAMES, 0)
    labels, p_all = scored(100_000, seed=99)
    truth = measure_values(labels, p_all)
    for seed in range(30):
        metrics = measure(*scored(300, seed), 0.5)
        for name in METRIC_NAMES:
            interval = getattr(metrics, name)
            assert interval.low <= interval.value <= interval.high
            held[name] += interval.low <= truth[name] <= interval.high
    assert all(26 <= count <= 30 for count in held.values()), held


def measure_values(labels: np.ndarray, p_all: np.ndarray) -> dict[str, float]:
    called = p_all >= 0.5
    return {
        "accuracy": float((called == labels).mean()),
        "sensitivity": float(called[labels].mean()),
        "specificity": float((~called[~labels]).mean()),
        "auc": float(roc_auc_score(labels, p_all)),
        "f1": float(f1_score(labels, called)),
    }


def test_one_class_alone_is_refused() -> None:
    with pytest.raises(DataError, match="expected cells of both classes, found 5 ALL of 5 cells"):
        measure(np.ones(5, bool), np.ones(5), 0.5)


def test_a_float32_just_below_the_threshold_is_healthy_as_it_is_for_the_runtime() -> None:
    p_all = np.array([0.9, 0.1], np.float32)
    assert float(p_all[0]) < 0.9
    metrics = measure(np.array([True, False]), p_all, 0.9)
    assert (metrics.sensitivity.value, metrics.constant) == (0, "healthy")


def test_a_few_cells_are_enough() -> None:
    metrics = measure(np.array([True, False]), np.array([0.9, 0.1]), 0.5)
    assert (metrics.accuracy.value, metrics.constant) == (1, None)


def test_ten_of_ten_leave_room_for_what_so_few_do_not_show() -> None:
    labels = np.arange(210) >= 10
    p_all = np.where(labels, 0.9, 0.1)
    perfect = measure(labels, p_all, 0.5)
    # Wilson (1927) of 10, 200 and 210 out of as many: 1 / (1 + 1.96^2 / n).
    for metric, low in (("specificity", 0.722467), ("sensitivity", 0.981155), ("accuracy", 0.982036)):
        interval = getattr(perfect, metric)
        assert (interval.value, interval.high) == (1, 1)
        assert interval.low == pytest.approx(low, abs=1e-6)
    assert perfect.auc.low == perfect.specificity.low
    assert "Wilson's where a metric is 0 or 1" in perfect.interval_method
    reversed_ = measure(labels, 1 - p_all, 0.5).specificity
    assert (reversed_.value, reversed_.low) == (0, 0)
    assert reversed_.high == pytest.approx(1 - 0.722467, abs=1e-6)


def test_subjects_who_are_all_told_right_count_once_each() -> None:
    labels = np.arange(200) >= 100
    groups = [f"{'H' if row < 100 else ''}{row // 20}" for row in range(200)]  # five subjects of each class
    metrics = measure(labels, np.where(labels, 0.9, 0.1), 0.5, groups)
    assert metrics.specificity.low == pytest.approx(1 / (1 + 1.959964**2 / 5), abs=1e-6)


def clustered(seed: int, subjects: int = 20, cells: int = 60) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Cells of subjects who differ among each other far more than the cells of one subject do."""
    rng = np.random.default_rng(seed)
    own = rng.normal(0, 0.25, subjects)
    number = np.repeat(np.arange(subjects), cells)
    labels = number % 2 == 0
    p_all = np.clip(0.4 + 0.2 * labels + own[number] + rng.normal(0, 0.05, len(number)), 0, 1)
    return labels, p_all, [str(subject) for subject in number]


def test_intervals_over_subjects_are_as_wide_as_subjects_differ() -> None:
    truth = measure_values(*clustered(99, subjects=4000, cells=10)[:2])
    held = {"subjects": 0, "images": 0}
    for seed in range(30):
        labels, p_all, groups = clustered(seed)
        over = {"subjects": measure(labels, p_all, 0.5, groups), "images": measure(labels, p_all, 0.5)}
        for name, metrics in over.items():
            held[name] += metrics.sensitivity.low <= truth["sensitivity"] <= metrics.sensitivity.high
    assert held["subjects"] >= 24
    assert held["images"] <= 12, "images of one subject are no independent evidence"


def test_the_method_says_what_was_drawn() -> None:
    labels, p_all, groups = clustered(0)
    assert measure(labels, p_all, 0.5, groups).interval_method.startswith(
        "bootstrap over 10 healthy and 10 ALL subjects"
    )
    assert measure(labels, p_all, 0.5).interval_method.startswith("bootstrap over images")


def test_one_subject_of_a_class_gives_no_interval_over_subjects() -> None:
    labels, p_all, groups = clustered(0)
    groups = ["H1" if not is_all else group for group, is_all in zip(groups, labels, strict=True)]
    method = measure(labels, p_all, 0.5, groups).interval_method
    assert "over images" in method
    assert "only 1 healthy and 10 ALL subjects: how much subjects differ is left out" in method
