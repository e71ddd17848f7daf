"""Draw the charts of README and docs from measured figures.

They are in `docs/images/*.csv`, and of `bench.budgets` in `docs/results/budgets.csv`.
`python -m bench.charts` writes them anew; a test holds that the committed ones are what it writes.
SVG that follows the reader's light or dark mode, with no library: the files stay small and the same
on every machine.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from bench.insert import RESULTS
from bench.report import from_csv

IMAGES = Path(__file__).parent.parent / "docs" / "images"
WIDTH = 720

_STYLE = """<style>
.page{fill:#fff}.line{stroke:#d0d7de}.text{fill:#24292f}.faint{fill:#57606a}
.ours{fill:#0969da}.theirs{fill:#afb8c1}
.s0{stroke:#0969da;fill:#0969da}.s1{stroke:#bc4c00;fill:#bc4c00}.s2{stroke:#1a7f37;fill:#1a7f37}
@media (prefers-color-scheme:dark){
.page{fill:#0d1117}.line{stroke:#30363d}.text{fill:#e6edf3}.faint{fill:#9198a1}
.ours{fill:#4493f8}.theirs{fill:#656c76}
.s0{stroke:#4493f8;fill:#4493f8}.s1{stroke:#f0883e;fill:#f0883e}.s2{stroke:#3fb950;fill:#3fb950}}
text{font:14px system-ui,sans-serif;stroke:none}.head{font-weight:600}
path{fill:none;stroke-width:2}
</style>"""


def main() -> None:
    """Write every chart."""
    for name, drawing in drawings().items():
        (IMAGES / name).write_text(drawing)


def drawings() -> dict[str, str]:
    """Return every chart by the name of its file."""
    return {
        "throughput.svg": throughput(),
        "quality.svg": quality(),
        "budgets.svg": budgets(),
    }


def throughput() -> str:
    """Return requests per second of several servers as bars."""
    left, bar, step = 290, 18, 28
    rows = _rows("throughput.csv")
    scale = (WIDTH - left - 60) / max(float(row["requests_per_s"]) for row in rows)
    body, y, group = [], 14, ""
    for row in rows:
        if row["group"] != group:
            group = row["group"]
            body.append(_text(14, y + 22, group, "text head"))
            y += 36
        rate = float(row["requests_per_s"])
        kind = "ours" if row["server"].startswith("Rheostat") else "theirs"
        length = round(rate * scale)
        body.append(_text(left - 10, y + 14, row["server"], "text", "end"))
        body.append(f'<rect class="{kind}" x="{left}" y="{y}" width="{length}" height="{bar}"/>')
        body.append(_text(left + length + 8, y + 14, row["requests_per_s"], "text"))
        y += step
    note = "Requests/s at 32 connections, one sentence in a request, two cores. More is better."
    body.append(_text(14, y + 22, note, "faint"))
    return _document("Requests per second of embedding servers", y + 40, body)


def quality() -> str:
    """Return the share of the test score that models keep over the share of compute, as lines."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in _rows("quality.csv"):
        name = f"{row['model']}: {row['metric']} (n = {int(row['n']):,})"
        kept = float(row["test_score"]) / float(row["whole_score"])
        series.setdefault(name, []).append((float(row["share_of_macs"]), kept))
    return _curves("Test score over compute", "Share of the whole model's test score", series, 40)


def budgets() -> str:
    """Return the share of the test score that budgets keep, as `bench.budgets` was answered."""
    series = {}
    for table in from_csv((RESULTS / "budgets.csv").read_text()):
        rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        whole = float(rows[-1]["score"])
        series[f"{table.title} (n = {int(rows[-1]['n']):,})"] = [
            (float(row["compute used"].rstrip("%")) / 100, float(row["score"]) / whole)
            for row in rows
        ]
    return _curves("What budgets buy", "Share of the score without a budget", series, 80)


def _curves(
    title: str, head: str, series: Mapping[str, Sequence[tuple[float, float]]], lowest: int
) -> str:
    """Return lines of (share of compute, share kept), from so many per cent up."""
    left, right, top, bottom = 60, WIDTH - 40, 50, 370

    def place(share: float, kept: float) -> tuple[int, int]:
        y = bottom - (100 * kept - lowest) / (100 - lowest) * (bottom - top)
        return round(left + share * (right - left)), round(y)

    body = [_text(14, 26, head, "text head")]
    for percent in range(lowest, 101, 10 if lowest < 80 else 5):
        y = place(0, percent / 100)[1]
        body.append(f'<line class="line" x1="{left}" y1="{y}" x2="{right}" y2="{y}"/>')
        body.append(_text(left - 8, y + 5, f"{percent} %", "faint", "end"))
    for percent in range(0, 101, 20):
        x = place(percent / 100, 0)[0]
        body.append(_text(x, bottom + 22, f"{percent} %", "faint", "middle"))
    body.append(_text(right, bottom + 46, "share of its compute (MACs)", "faint", "end"))
    for number, (name, points) in enumerate(series.items()):
        line = [place(*point) for point in points]
        path = " ".join(f"{x},{y}" for x, y in line)
        dots = "".join(f'<circle cx="{x}" cy="{y}" r="3.5"/>' for x, y in line)
        y = bottom + 74 + 22 * number
        legend = f'<rect x="{left}" y="{y - 11}" width="12" height="12"/>'
        body.append(f'<g class="s{number}"><path d="M{path}"/>{dots}{legend}</g>')
        body.append(_text(left + 20, y, name, "text"))
    return _document(title, bottom + 92 + 22 * (len(series) - 1), body)


def _rows(name: str) -> list[dict[str, str]]:
    with (IMAGES / name).open(newline="") as lines:
        return list(csv.DictReader(lines))


def _text(x: int, y: int, text: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def _document(title: str, height: int, body: Iterable[str]) -> str:
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    page = f'<rect class="page" width="{WIDTH}" height="{height}" rx="8"/>'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"<title>{escape(title)}</title>",
        _STYLE,
        page,
        *body,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
