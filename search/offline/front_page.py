"""The front of an elastic model for people: a table, a picture and a page that holds both."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

PICTURE, PAGE = "front.png", "front.html"
_SIZE = (1200, 760)
_LEFT, _TOP, _RIGHT, _BOTTOM = 130, 90, 1150, 640
_INK, _FAINT, _LINE, _BLUE, _ORANGE = "#24292f", "#57606a", "#d0d7de", "#0969da", "#bc4c00"


class Point(NamedTuple):
    """One cut, as it was measured on data that chose nothing.

    Attributes:
        keep: Value on the axis.
        bits: Of the layers' weights.
        macs: Share of the layers' MACs.
        score: In the task's metric.
        stderr: Standard error of the score.
        n: Pairs or texts.
        kept: Share of the whole model's score.
        layers: What is left of each layer.
    """

    keep: float
    bits: int
    macs: float
    score: float
    stderr: float
    n: int
    kept: float
    layers: str


COLUMNS = ("keep", "bits", "MACs", "score", "standard error", "kept", "layers: heads, units")


def cells(point: Point) -> tuple[str, ...]:
    """Return a row of the table."""
    return (
        f"{point.keep:g}",
        str(point.bits),
        f"{100 * point.macs:.1f} %",
        f"{point.score:.4f}",
        f"{point.stderr:.4f}",
        f"{100 * point.kept:.1f} %",
        point.layers,
    )


def markdown(points: Sequence[Point]) -> str:
    """Return the table in Markdown."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *map(cells, points)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(points: Sequence[Point]) -> str:
    """Return the table for a terminal, its columns aligned."""
    rows = [COLUMNS, *map(cells, points)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS) - 1)]
    return "\n".join(
        "  ".join([*(c.rjust(w) for c, w in zip(row[:-1], widths, strict=True)), row[-1]])
        for row in rows
    )


def picture(title: str, metric: str, points: Sequence[Point]) -> bytes:
    """Return the front as a PNG: share of the score that is kept over share of the layers' MACs."""
    image = Image.new("RGB", _SIZE, "white")
    draw = ImageDraw.Draw(image)
    large, small = ImageFont.load_default(28), ImageFont.load_default(20)
    lowest = min(0.9, min(point.kept - point.stderr for point in points))
    lowest = int(lowest * 20) / 20
    highest = max(1.0, max(point.kept for point in points)) + 0.01

    def at(macs: float, kept: float) -> tuple[float, float]:
        share = (kept - lowest) / (highest - lowest)
        return _LEFT + macs * (_RIGHT - _LEFT), _BOTTOM - share * (_BOTTOM - _TOP)

    draw.text((_LEFT, 24), title, _INK, large)
    for n in range(6):
        kept = lowest + (1 - lowest) * n / 5
        (_, y), (x, _) = at(0, kept), at(n / 5, lowest)
        draw.line([(_LEFT, y), (_RIGHT, y)], _LINE)
        draw.text((_LEFT - 12, y), f"{100 * kept:.1f} %", _FAINT, small, anchor="rm")
        draw.text((x, _BOTTOM + 14), f"{20 * n} %", _FAINT, small, anchor="mt")
    axis = f"share of the layers' multiply-accumulates; {metric} on data that chose nothing"
    draw.text((_RIGHT, _BOTTOM + 50), axis, _FAINT, small, anchor="rt")
    for colour, bits in ((_ORANGE, 8), (_BLUE, 32)):
        own = [point for point in points if point.bits == bits]
        places = [at(point.macs, point.kept) for point in own]
        if len(places) > 1:
            draw.line(places, colour, 3)
        for point, (x, y) in zip(own, places, strict=True):
            relative = point.stderr / point.score * point.kept if point.score > 0 else 0.0
            for sign in (-1, 1):
                draw.line([(x, y), at(point.macs, point.kept + sign * relative)], colour, 1)
            draw.ellipse([x - 6, y - 6, x + 6, y + 6], colour)
        if own:
            y = _BOTTOM + (50 if bits == 32 else 80)
            draw.rectangle([_LEFT, y, _LEFT + 16, y + 16], colour)
            draw.text((_LEFT + 26, y + 8), f"{bits} bits", _INK, small, anchor="lm")
    file = BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def page(title: str, text: str, drawing: bytes, points: Sequence[Point]) -> str:
    """Return a page of HTML that needs no other file."""
    head = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells(point)) + "</tr>\n"
        for point in points
    )
    source = base64.b64encode(drawing).decode()
    return _PAGE.format(title=escape(title), text=escape(text), source=source, head=head, rows=rows)


def write(folder: Path, title: str, text: str, metric: str, points: Sequence[Point]) -> None:
    """Write the picture and the page."""
    drawing = picture(title, metric, points)
    (folder / PICTURE).write_bytes(drawing)
    (folder / PAGE).write_text(page(title, text, drawing, points), encoding="utf-8")


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{font:16px system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em}}
img{{max-width:100%}}table{{border-collapse:collapse}}td,th{{padding:.3em .8em;text-align:right;
border-bottom:1px solid #d0d7de}}td:last-child,th:last-child{{text-align:left}}</style></head>
<body><h1>{title}</h1><p>{text}</p>
<img alt="Share of the score over share of the multiply-accumulates; the table has the numbers"
src="data:image/png;base64,{source}">
<table><thead><tr>{head}</tr></thead><tbody>
{rows}</tbody></table></body></html>
"""
