"""Names of files that try to be more than a name."""

from __future__ import annotations

from pathlib import Path

from runtime.cell_names import printable
from tests.page.visitor import Visitor, expect, made_file

HOSTILE = (
    "<script>document.title = 'broken'</script>.bmp",
    "<img src=x onerror=\"document.title='broken'\">.bmp",
    "cell_\u202egpj.exe.bmp",
    "\u05d0\u05d1\u05d2 \u0661\u0662.bmp",
    'quo"te; filename="other.bmp',
    "line\r\nContent-Type: text",
    "javascript:alert(1)//.bmp",
    "=HYPERLINK(1).bmp",
    "x" * 10_240 + ".bmp",
    '"' * 10_240,
)


def test_hostile_names_are_text_everywhere(visitor: Visitor, images: list[Path]) -> None:
    data = images[0].read_bytes()
    visitor.add([made_file(name, data) for name in HOSTILE])
    visitor.waits_for(len(HOSTILE))
    shown = [printable(name.rpartition("/")[2]) for name in HOSTILE]
    assert visitor.see("#cells tbody bdi").evaluate_all("all => all.map((one) => one.textContent)") == shown
    assert visitor.counts()["error"] == 0
    for place in range(len(HOSTILE)):
        visitor.see("#cells tbody .open").nth(place).click()
        assert visitor.see("#cell-facts bdi").first.text_content() == printable(HOSTILE[place])
        visitor.page.keyboard.press("Escape")
    assert visitor.see("main script, main img[src=x]").count() == 0
    assert visitor.page.title() == "ALLNet Edge"
    assert not visitor.scrolls_sideways()
    assert [row["path"] for row in visitor.download()[1]] == list(HOSTILE)


def test_a_long_name_is_cut_in_the_table(visitor: Visitor, images: list[Path]) -> None:
    visitor.add([made_file("x" * 300 + ".png", images[0].read_bytes())])
    visitor.waits_for(1)
    box = visitor.see("#cells tbody tr").first.bounding_box()
    assert box
    assert box["height"] < 120
    expect(visitor.see("#cells tbody .open")).to_have_css("text-overflow", "ellipsis")
