"""That tables show numbers of any size, and that only zero is shown as 0."""

from __future__ import annotations

import pytest

from runtime.command_line import print_table
from runtime.table_text import column_texts, value_text


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([239.71, 126.0, 31.339, 5.1904], ["239.7", "126.0", "31.3", "5.19"]),
        ([0.982123, 0.35, 0.00001], ["0.9821", "0.3500", "1e-05"]),
        ([0.0, 1e-7, 0.0004321], ["0", "1e-07", "0.0004321"]),
        ([400000.0, 0.9875, 2e-5, -12.5], ["400,000", "0.9875", "2e-05", "-12.5"]),
        ([12.4, 1.1, 0.4, 0.052], ["12.40", "1.10", "0.40", "0.052"]),
        ([400.0, 20.0], ["400", "20"]),
        ([999.96, 1000.2], ["1,000", "1,000"]),
        ([51.9, 1.0, 16.1], ["51.9", "1.0", "16.1"]),
        ([float("nan"), float("inf"), 2.5], ["nan", "inf", "2.5"]),
        ([50000, None, True, "", "all"], ["50,000", "not measured", "yes", "", "all"]),
        ([], []),
    ],
)
def test_a_column_has_the_decimals_of_its_largest_number_and_no_number_vanishes(
    values: list[object], texts: list[str]
) -> None:
    assert column_texts(values) == texts


@pytest.mark.parametrize(("value", "text"), [(8.2219, "8.222"), (0.00012346, "0.0001235"), (False, "no"), (7, "7")])
def test_a_value_alone_has_four_figures(value: object, text: str) -> None:
    assert value_text(value) == text


def test_a_table_puts_numbers_to_the_right_also_where_the_first_was_not_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table([{"limit": "slowdown", "found": None, "kept": False}, {"limit": "auc", "found": 0.0002, "kept": True}])
    assert capsys.readouterr().out.splitlines() == [
        "limit            found  kept",
        "slowdown  not measured  no",
        "auc             0.0002  yes",
    ]
