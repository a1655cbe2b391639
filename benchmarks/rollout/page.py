"""The parts that the report's page is put together from: its look, tables, lists, numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.record import FAILED, SKIPPED
from runtime.html_page import text
from runtime.table_text import column_texts

STYLE = """\
:root { color-scheme: light dark; --ink: #1d2126; --soft: #5b6470; --paper: #fff; --card: #f5f6f8; --grid: #c9ced6;
  --yes: #1a7340; --no: #b3261e; --open: #9a5b00;
  --s1: #0072b2; --s2: #d55e00; --s3: #008560; --s4: #a8518a; --s5: #b07d00; --s6: #3d8fc7; --s7: #555; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #a5adb8; --paper: #14171a; --card: #1e2226;
  --grid: #474e57; --yes: #6cc98f; --no: #ff8f85; --open: #f0b35a;
  --s1: #5eb4ec; --s2: #ff9a4d; --s3: #41c9a0; --s4: #e29ac8; --s5: #e8bf4d; --s6: #9bd3f7; --s7: #bbb; } }
* { box-sizing: border-box; }
body { font: 1rem/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 74rem;
  margin: 1.5rem auto; padding: 0 1rem; }
h1 { margin: 0 0 .2rem; } h2 { margin: 2.2rem 0 .5rem; } h3 { margin: 1.4rem 0 .4rem; font-size: 1rem; }
p { max-width: 52rem; } p, li { overflow-wrap: anywhere; } time { white-space: nowrap; }
.soft { color: var(--soft); font-size: .9rem; }
.verdict { border: 2px solid; border-left-width: .6rem; border-radius: .4rem; padding: .6rem 1rem; margin: 1rem 0; }
.verdict strong { font-size: 1.25rem; } .verdict ul { margin: .4rem 0 0; padding-left: 1.2rem; color: var(--ink); }
.verdict p { margin: .6rem 0 0; font-weight: 600; color: var(--open); }
.yes { color: var(--yes); } .no { color: var(--no); } .open { color: var(--open); }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.3rem, 1fr)); gap: .6rem; margin: 1rem 0; }
.tiles div { background: var(--card); border-radius: .4rem; padding: .6rem .8rem; }
.tiles b { display: block; font-size: 1.35rem; line-height: 1.2; } .tiles span { color: var(--soft); font-size: .8rem; }
.wide { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem .25rem 0; text-align: left; border-bottom: 1px solid var(--grid); vertical-align: top; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; } td { white-space: nowrap; }
td.number, th.number { text-align: right; } td.said { white-space: normal; min-width: 12rem; overflow-wrap: anywhere; }
tr.failed td { color: var(--no); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption { color: var(--soft); font-size: .85rem; }
svg.plot { width: 100%; height: auto; max-width: 36rem; display: block; }
.cells { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .6rem; list-style: none;
  padding: 0; font-size: .75rem; line-height: 1.3; }
.cells li { border: 1px solid var(--grid); border-radius: .4rem; padding: .5rem; overflow-wrap: anywhere; }
.cells img, .gone { display: block; width: 96px; height: 96px; margin: 0 auto .4rem; background: #000; }
.gone { background: none; border: 1px dashed; padding: .2rem; overflow: hidden; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
nav a { display: inline-block; margin-right: 1rem; } a { color: var(--s1); }
a:focus-visible, summary:focus-visible { outline: 3px solid; outline-offset: 2px; }
@media (max-width: 30rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; } }
@media print {
  :root { color-scheme: light; --ink: #000; --soft: #444; --paper: #fff; --card: #f2f2f2; --grid: #bbb;
    --yes: #0a5c2e; --no: #a01010; --open: #7a4700;
    --s1: #0072b2; --s2: #d55e00; --s3: #008560; --s4: #a8518a; --s5: #b07d00; --s6: #3d8fc7; --s7: #555;
    font-size: 10pt; }
  @page { margin: 14mm; }
  body { margin: 0; padding: 0; max-width: none; }
  nav { display: none; } .wide { overflow: visible; } table { font-size: 7.2pt; } th, td { padding-right: .35rem; }
  th, td { white-space: normal; } figure, tr, .cells li, .tiles div, .verdict { break-inside: avoid; }
  h2, h3 { break-after: avoid; } .plots { grid-template-columns: 1fr 1fr; }
  details::details-content { content-visibility: visible; }
}
"""
NOTHING = "-"
FIGURE = re.compile(r"[+-]?\d[\d.,e+-]*%?$")


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Return rows as a table with the columns key: heading; a row that failed says why in place of its figures."""
    shown = {key: _Column([row.get(key, "") for row in rows]) for key in columns}
    head = "".join(f"<th{shown[key].attribute}>{text(heading)}</th>" for key, heading in columns.items())
    body = "".join(_row(row, place, shown) for place, row in enumerate(rows))
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>\n'


class _Column:
    """The values of a column as texts, numbers to the right."""

    def __init__(self, values: Sequence[object]) -> None:
        self.texts = column_texts(values)
        present = [value for value in values if value not in (None, "")]
        self.is_number = bool(present) and all(_is_figure(value) for value in present)
        self.attribute = ' class="number"' if self.is_number else ""

    def cell(self, place: int) -> str:
        """Return the cell of a row."""
        return f"<td{self.attribute}>{text(self.texts[place] or NOTHING)}</td>"


def _is_figure(value: object) -> bool:
    is_text = isinstance(value, str) and FIGURE.match(value) is not None
    return is_text or (isinstance(value, int | float) and not isinstance(value, bool))


def _row(row: Mapping[str, Any], place: int, columns: Mapping[str, _Column]) -> str:
    status = row.get("status")
    if status not in (FAILED, SKIPPED):
        return f"<tr>{''.join(column.cell(place) for column in columns.values())}</tr>\n"
    named = [column for column in columns.values() if column.texts[place] and not column.is_number]
    cells = "".join(f"<td>{text(column.texts[place])}</td>" for column in named)
    said = f'<td class="said" colspan="{len(columns) - len(named)}">{status}: {text(row["reason"])}</td>'
    return f'<tr class="{status}">{cells}{said}</tr>\n'


def facts(items: Mapping[str, object]) -> str:
    """Return names and values as a list."""
    return "<dl>" + "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in items.items()) + "</dl>\n"


def bullets(lines: Iterable[str]) -> str:
    """Return lines as a list."""
    return "<ul>" + "".join(f"<li>{text(line)}</li>" for line in lines) + "</ul>"


def figure(svg: str, caption: str) -> str:
    """Return a picture with its caption."""
    return f"<figure>{svg}<figcaption>{text(caption)}</figcaption></figure>\n"


def folded(title: str, content: str) -> str:
    """Return content that is shown on request."""
    return f"<details><summary>{text(title)}</summary>{content}</details>\n"
