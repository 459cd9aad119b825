"""Charts as inline SVG: drawn by hand, so that the page needs no library and follows its light and dark colours.

A chart is drawn three times where width matters, for a telephone, a tablet and a desk, of which the page shows one, so
that text is never scaled to where it cannot be read.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One point of a scatter.

    Attributes:
        x: above 0 on a logarithmic axis.
        y: its value.
        title: what a reader sees who rests on it.
        kind: class of its look: `rest`, `front` or `knee`.
        label: written beside it; nothing if left out.
        href: where a click leads.
    """

    x: float
    y: float
    title: str
    kind: str = "rest"
    label: str = ""
    href: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a line chart.

    Attributes:
        points: x and y, by rising x.
        name: in the legend.
        kind: class of its colour, such as `c1`.
    """

    points: Sequence[tuple[float, float]]
    name: str
    kind: str


SIZES: Mapping[str, int] = MappingProxyType({"wide": 1240, "middle": 720, "narrow": 376})
"""Widths in pixels that a chart is drawn for, by the class under which the page shows it."""

_MOST_TICKS = 6
_LETTER = 7.0  # width in pixels that texts are reckoned with


class Frame:
    """The axes of a chart: where values lie on it, and what is written at them."""

    def __init__(  # noqa: PLR0913
        self,
        *,
        width: int,
        height: int,
        x_range: tuple[float, float],
        y_range: tuple[float, float],
        x_ticks: Mapping[float, str],
        y_ticks: Mapping[float, str],
        x_scale: Callable[[float], float] = float,
    ) -> None:
        """Lay it out.

        Args:
            width: of the chart, in pixels.
            height: likewise.
            x_range: smallest and largest x.
            y_range: likewise of y.
            x_ticks: position → label.
            y_ticks: likewise.
            x_scale: what x is drawn by, such as `math.log`.
        """
        self.width, self.height = width, height
        longest = max(map(len, y_ticks.values()), default=0)
        self._left, self._right = max(52, 10 + int(_LETTER * longest)), width - 14
        self._top, self._bottom = 26, height - 40
        self._x_scale = x_scale
        self._x_low, self._x_high = x_scale(x_range[0]), x_scale(x_range[1])
        self._y_low, self._y_high = y_range
        self._x_ticks, self._y_ticks = x_ticks, y_ticks

    @property
    def left(self) -> int:
        """Where the horizontal axis begins, in pixels."""
        return self._left

    @property
    def right(self) -> int:
        """Where it ends."""
        return self._right

    def x(self, value: float) -> float:
        """Where an x lies."""
        part = (self._x_scale(value) - self._x_low) / ((self._x_high - self._x_low) or 1.0)
        return round(self._left + part * (self._right - self._left), 1)

    def y(self, value: float) -> float:
        """Where a y lies."""
        part = (value - self._y_low) / ((self._y_high - self._y_low) or 1.0)
        return round(self._bottom - part * (self._bottom - self._top), 1)

    def level(self, value: float) -> str:
        """A dashed line over the whole width."""
        y = self.y(value)
        return f'<line class="teacher" x1="{self._left}" x2="{self._right}" y1="{y}" y2="{y}"/>'

    def teacher(self, value: float) -> str:
        """A dashed line over the whole width, which is said to be the teacher's."""
        note = _Text(css="note", right=self._right, baseline=self.y(value) - 5, words="teacher")
        return self.level(value) + note.svg

    def svg(self, inside: str, *, title: str, x_title: str = "", y_title: str = "", css: str = "") -> str:
        """The whole chart around what is drawn inside.

        Args:
            inside: SVG.
            title: what a screen reader says of it.
            x_title: under the horizontal axis.
            y_title: above the vertical one.
            css: further classes.
        """
        parts = []
        for value, label in self._y_ticks.items():
            y = self.y(value)
            parts.append(f'<line class="grid" x1="{self._left}" x2="{self._right}" y1="{y}" y2="{y}"/>')
            parts.append(
                f'<text class="tick" text-anchor="end" x="{self._left - 6}" y="{y + 4}">{escape(label)}</text>'
            )
        for value, label in self._x_ticks.items():
            x = self.x(value)
            parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{self._top}" y2="{self._bottom}"/>')
            parts.append(
                f'<text class="tick" text-anchor="middle" x="{x}" y="{self._bottom + 16}">{escape(label)}</text>'
            )
        middle = (self._left + self._right) / 2
        parts.append(
            f'<text class="axis" text-anchor="middle" x="{middle}" y="{self.height - 6}">{escape(x_title)}</text>'
        )
        parts.append(f'<text class="axis" x="2" y="12">{escape(y_title)}</text>')
        role = "group" if "<a " in inside else "img"  # what is in an image is not told by who reads aloud
        return (
            f'<svg class="chart {css}" role="{role}" aria-label="{escape(title, quote=True)}" '
            f'viewBox="0 0 {self.width} {self.height}">'
            f"{''.join(parts)}{inside}</svg>"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Text:
    """A text on a chart and the place that it takes, as far as letters can be foreseen."""

    css: str
    right: float
    baseline: float
    words: str

    @property
    def left(self) -> float:
        return self.right - _LETTER * len(self.words)

    def covers(self, other: "_Text") -> bool:
        return abs(self.baseline - other.baseline) <= 13 and self.left <= other.right and other.left <= self.right

    def is_on(self, x: float, y: float) -> bool:
        """Whether it would touch the mark of a point."""
        return self.left - 6 <= x <= self.right + 6 and self.baseline - 17 <= y <= self.baseline + 9

    @property
    def svg(self) -> str:
        place = f'x="{self.right:.1f}" y="{self.baseline:.1f}"'
        return f'<text class="{self.css}" text-anchor="end" {place}>{escape(self.words)}</text>'


def scatter(
    frame: Frame,
    points: Sequence[Point],
    *,
    joined: bool,  # noqa: FBT001 - drawn, not behaved
    teacher: tuple[float, str] | None = None,
) -> str:
    """Points, those of the front last and on a line where that says something.

    Args:
        frame: the axes.
        points: any number.
        joined: whether the front is a line.
        teacher: its y, a dashed line, and what is written there.
    """
    order = {"rest": 0, "front": 1, "knee": 2}
    drawn = sorted(points, key=lambda point: order[point.kind])
    line = [(frame.x(p.x), frame.y(p.y)) for p in sorted(drawn, key=lambda p: p.x) if p.kind != "rest"]
    parts = [f'<polyline class="front" points="{_path(line)}"/>'] if joined and len(line) > 1 else []
    marks = []
    for point in drawn:
        x, y = frame.x(point.x), frame.y(point.y)
        radius = 3.5 if point.kind == "rest" else 6
        ring = f'<circle class="ring" cx="{x}" cy="{y}" r="11"/>' if point.kind == "knee" else ""
        mark = f'{ring}<circle class="{point.kind}" cx="{x}" cy="{y}" r="{radius}"><title>{escape(point.title)}</title>'
        mark += "</circle>"
        marks.append(f'<a href="{escape(point.href, quote=True)}">{mark}</a>' if point.href else mark)
    level = "" if teacher is None else frame.level(teacher[0])
    return level + "".join(parts + marks) + "".join(text.svg for text in _texts(frame, drawn, teacher))


def _texts(frame: Frame, points: Sequence[Point], teacher: tuple[float, str] | None) -> list[_Text]:
    """The teacher's words where least is in their way, then labels; what would cover another text is left out."""
    places = [(frame.x(point.x), frame.y(point.y)) for point in points]
    labels = []
    # The knee's first.
    for point in sorted(points, key=lambda point: point.kind != "knee"):
        right, baseline = max(frame.x(point.x) - 9, frame.left + _LETTER * len(point.label)), frame.y(point.y) - 9
        labels.append(_Text(css="label", right=right, baseline=baseline, words=point.label))
    taken: list[_Text] = []
    if teacher is not None:
        y, words = frame.y(teacher[0]), teacher[1]
        spots = [
            _Text(css="note", right=right, baseline=baseline, words=words)
            for baseline in (y - 5, y + 15)
            for right in (float(frame.right), frame.left + 4 + _LETTER * len(words))
        ]
        in_the_way = [
            sum(spot.is_on(*place) for place in places) + sum(bool(one.words) and one.covers(spot) for one in labels)
            for spot in spots
        ]
        taken.append(spots[in_the_way.index(min(in_the_way))])
    for label in labels:
        if label.words and not any(label.covers(other) for other in taken):
            taken.append(label)
    return taken


def lines(frame: Frame, drawn: Sequence[Line]) -> str:
    """Lines over the axes, each with its name for who rests on it; of a single value a point."""
    parts = []
    for line in drawn:
        places, name = [(frame.x(x), frame.y(y)) for x, y in line.points], f"<title>{escape(line.name)}</title>"
        if len(places) == 1:
            ((x, y),) = places
            parts.append(f'<circle class="alone {line.kind}" cx="{x}" cy="{y}" r="3">{name}</circle>')
        else:
            parts.append(f'<polyline class="line {line.kind}" points="{_path(places)}">{name}</polyline>')
    return "".join(parts)


def percent_ticks(low: float, high: float, most: int = _MOST_TICKS) -> dict[float, str]:
    """Round positions between two fractions, with labels in percent."""
    return {tick / 100: f"{text} %" for tick, text in value_ticks(100 * low, 100 * high, most).items()}


def value_ticks(low: float, high: float, most: int = _MOST_TICKS) -> dict[float, str]:
    """Round positions between two values, with labels of as many decimals as the step between them has."""
    span = max(high - low, 1e-6)
    raw = span / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)
    decimals = next(number for number in range(9) if math.isclose(round(step, number), step, rel_tol=1e-6))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return {index * step: f"{index * step:.{decimals}f}" for index in range(first, last + 1)}


def count_ticks(last: int) -> dict[float, str]:
    """Whole numbers up to the last one."""
    step = max(1, math.ceil(last / _MOST_TICKS))
    return {float(index): str(index) for index in range(0, last + 1, step)}


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)
