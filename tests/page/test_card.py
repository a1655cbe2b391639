from __future__ import annotations

import pytest

from tests.page.visitor import Visitor


@pytest.mark.parametrize(
    ("markdown", "html"),
    [
        ("# Title\ntext that\ngoes on\n\nmore", "<h3>Title</h3><p>text that goes on</p><p>more</p>"),
        ("- one\n  goes on\n- `two`", "<ul><li>one goes on</li><li><code>two</code></li></ul>"),
        (
            "| a | **b** |\n|---|:-:|\n| 1 |  |",
            "<table><thead><tr><th>a</th><th><strong>b</strong></th></tr></thead>"
            "<tbody><tr><td>1</td><td></td></tr></tbody></table>",
        ),
        ("| no | table |", "<p>| no | table |</p>"),
        ("a **b and `c", "<p>a **b and `c</p>"),
        (
            "<img src=x onerror=alert(1)> [a](javascript:alert(1)) `<b>`",
            "<p>&lt;img src=x onerror=alert(1)&gt; [a](javascript:alert(1)) <code>&lt;b&gt;</code></p>",
        ),
        ("\r\n\r\n## Two\r\n\r\nlines of Windows\r\n", "<h4>Two</h4><p>lines of Windows</p>"),
        ("", ""),
    ],
)
def test_a_cards_markdown_becomes_elements_and_no_text_of_it_html(visitor: Visitor, markdown: str, html: str) -> None:
    made = visitor.call("markdown.js", "module.elementsOf(given).map((each) => each.outerHTML).join('')", markdown)
    assert made == html
