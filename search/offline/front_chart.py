"""A chart of what was measured: every subnet a dot, those that nothing beats joined by a line."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT, _LEFT, _TOP, _EDGE = 720, 420, 70, 40, 30
_STYLE = """<style>
.page{fill:#fff}.line{stroke:#d0d7de}.text{fill:#24292f}.all{fill:#afb8c1}
.front{fill:#0969da}.joined{fill:none;stroke:#0969da;stroke-width:2}
@media (prefers-color-scheme:dark){
.page{fill:#0d1117}.line{stroke:#30363d}.text{fill:#e6edf3}.all{fill:#656c76}
.front{fill:#4493f8}.joined{stroke:#4493f8}}
text{font:13px system-ui,sans-serif}
</style>"""

Point = tuple[float, float]


def chart(
    title: str, cost: str, score: str, points: Sequence[Point], front: Sequence[Point]
) -> str:
    """Return an SVG picture.

    Args:
        title: Above it.
        cost: Name of the horizontal axis.
        score: Name of the vertical axis.
        points: Cost and score of everything measured.
        front: Of what nothing beats.
    """
    every = [*points, *front]
    low_x, high_x = _ends([x for x, _ in every])
    low_y, high_y = _ends([y for _, y in every])

    def at(point: Point) -> tuple[float, float]:
        x = _LEFT + (_WIDTH - _LEFT - _EDGE) * (point[0] - low_x) / (high_x - low_x)
        y = _HEIGHT - 50 - (_HEIGHT - 50 - _TOP) * (point[1] - low_y) / (high_y - low_y)
        return round(x, 1), round(y, 1)

    def dots(kind: str, radius: int, places: Sequence[Point]) -> list[str]:
        return [
            f'<circle class="{kind}" cx="{x}" cy="{y}" r="{radius}"/>' for x, y in map(at, places)
        ]

    body = [_text(_LEFT, 22, title)]
    for i in range(5):
        x, y = low_x + (high_x - low_x) * i / 4, low_y + (high_y - low_y) * i / 4
        left, middle = at((x, low_y))[0], at((low_x, y))[1]
        body.append(f'<path class="line" d="M{_LEFT} {middle}H{_WIDTH - _EDGE}"/>')
        body.append(_text(_LEFT - 8, middle + 4, f"{y:.3g}", "end"))
        body.append(_text(left, _HEIGHT - 30, f"{x:.3g}", "middle"))
    body.append(_text(_WIDTH / 2, _HEIGHT - 8, cost, "middle"))
    body.append(_text(8, _TOP - 4, score))
    steps = " ".join(f"{x},{y}" for x, y in map(at, sorted(front)))
    body += dots("all", 3, points)
    body.append(f'<polyline class="joined" points="{steps}"/>')
    body += dots("front", 4, front)
    label = escape(title, {'"': "&quot;"})
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{label}">{_STYLE}'
    )
    page = f'<rect class="page" width="{_WIDTH}" height="{_HEIGHT}"/>'
    return "\n".join([head, page, *body, "</svg>\n"])


def _ends(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 1, high + 1)


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text class="text" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
