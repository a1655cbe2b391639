"""The frame of an HTML file that stands alone: it loads nothing and runs nothing, whatever names stand in it."""

from __future__ import annotations

from html import escape

from runtime.cell_names import printable

HEAD = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
"""
TAIL = "</body>\n</html>\n"


def head(title: str, style: str) -> str:
    """Return all that stands before a page's content.

    Args:
        title: As HTML.
        style: CSS that ends with a line break.
    """
    return HEAD.format(title=title, style=style)


def text(value: object) -> str:
    """Return any text, even a file's name with bytes that are not UTF-8, as HTML that shows it and does nothing."""
    return escape(printable(str(value)))
