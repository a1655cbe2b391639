from __future__ import annotations

import random
from dataclasses import asdict
from pathlib import Path

import pytest

from runtime.classifier import Classifier, ClassifierOptions
from runtime.schema import Range, TypicalSubjects
from runtime.shift import FEWEST_CELLS, MEASURES, Appearances, ShiftCheck, ShiftRule
from tests.page.served import Served
from tests.page.visitor import Browser, Visitor, about_with, expect, made_file
from tests.runtime.service_help import zipped
from tests.runtime.tinted import tinted

BLUISH = (0.7, 0.9, 1.3)
CELLS = 70  # in three requests


@pytest.fixture
def bluish(images: list[Path], tmp_path: Path) -> list[Path]:
    return [Path(tinted(images[number % len(images)], tmp_path / f"{number}.png", BLUISH)) for number in range(CELLS)]


def warning_of_classify(paths: list[Path]) -> str:
    with Classifier(ClassifierOptions(backend="cpu")) as classifier:
        check = ShiftCheck(classifier.manifest.typical.subjects)
        for prediction in classifier.classify(map(str, paths)):
            check.add(prediction)
    return check.warning


def test_cells_that_look_unusual_as_a_whole_are_told_as_by_classify_over_all_requests(
    visitor: Visitor, images: list[Path], bluish: list[Path]
) -> None:
    requests: list[str] = []
    visitor.page.on("request", lambda request: requests.append(request.url))
    visitor.add(bluish[: FEWEST_CELLS - 1])
    visitor.waits_for(FEWEST_CELLS - 1)
    expect(visitor.see("#shift")).to_be_hidden()
    visitor.add(bluish[FEWEST_CELLS - 1 :])
    visitor.waits_for(CELLS)
    assert sum(url.endswith("/classify") for url in requests) > 2
    expect(visitor.see("#shift[role=alert]")).to_have_text(warning_of_classify(bluish))
    visitor.see("#clear").click()
    visitor.add(images * 3)
    visitor.waits_for(3 * len(images))
    expect(visitor.see("#shift")).to_be_hidden()


def test_cells_that_were_removed_while_their_archive_was_opened_tell_nothing(
    browser: Browser, service: Served, images: list[Path]
) -> None:
    mean = {"measure": "brightness", "low": 0, "high": 1, "is_share": False, "text": "brightness {mean}"}
    rule = {"fewest_cells": 1, "means": [mean], "text": "WARNING: {cells} cells: {unusual}"}
    archive = zipped({path.name: path.read_bytes() for path in images})
    with Visitor(browser, service.url, before=about_with(shift=rule)) as visitor:
        visitor.is_ready().page.evaluate("""() => {
          const open = Blob.prototype.arrayBuffer;
          Blob.prototype.arrayBuffer = async function () {
            await new Promise((resolve) => { window.goOn = resolve; });
            Blob.prototype.arrayBuffer = open;
            return open.call(this);
          };
        }""")
        visitor.add([made_file("plate.zip", archive)])
        visitor.page.wait_for_function("() => window.goOn")
        visitor.see("#clear").click()
        visitor.page.evaluate("window.goOn()")
        visitor.add(images[:1])
        visitor.waits_for(1)
        expect(visitor.see("#shift")).to_contain_text("WARNING: 1 cells")


def test_the_rule_is_that_of_classify(visitor: Visitor) -> None:
    typical = TypicalSubjects(14, Range(0.1, 0.3), Range(45, 68), Range(0.37, 0.4), Range(0.15, 0.18), Range(0.4, 0.5))
    rule = ShiftRule.of(typical)
    chance = random.Random(0)
    cases = [Appearances()]
    for cells in (1, FEWEST_CELLS - 1, *[FEWEST_CELLS] * 20, *[1000] * 20):
        means = {
            name: chance.choice([each.low, each.high, (each.low + each.high) / 2, each.low - 0.01, each.high * 1.1])
            for name in MEASURES
            for each in [getattr(typical, name)]
        }
        cases.append(Appearances(cells, {name: cells * mean for name, mean in means.items()}))
    expression = "given.cases.map((found) => module.shiftWarning(found, given.rule))"
    found = visitor.call("shift.js", expression, {"rule": asdict(rule), "cases": [asdict(each) for each in cases]})
    assert found == [rule.warning(each) for each in cases]
    assert {bool(warning) for warning in found} == {True, False}
    assert visitor.call("shift.js", "module.shiftWarning(given, null)", asdict(cases[-1])) == ""
