"""Pictures of a front: an interactive page, a still image, and a table."""

import dataclasses
import io
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from orchestrator.front.archive import Candidate
from orchestrator.front.front_view import FrontView
from orchestrator.markdown import table
from orchestrator.storage.whole_files import write_atomically
from orchestrator.words import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE, PICTURE = "front.html", "front.png"
_GREY, _BLUE, _RED = "#868c93", "#1f5fbf", "#d1495b"
# Steps of a decade, the sparsest first; over the narrowest axis, which spans a factor of 2.25, the last gives three.
_STEPS = ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9))
_FEWEST_TICKS = 3
_LABEL = (0.14, 0.04)  # width and height of a label, as parts of the axes on a telephone
_MARGIN = 1.5  # beyond the costs at either end of the axis
AXIS_TITLES: Mapping[str, str] = MappingProxyType(
    {
        "macs_kept": "MACs kept, of the teacher's",
        "params_kept": "parameters kept, of the teacher's",
        "latency_ms": "latency, ms an image",
    }
)


def front_figure(view: FrontView) -> Any:  # noqa: ANN401 - plotly comes without types
    """An interactive scatter of accuracy against cost, with the front, the knee and the teacher marked.

    Args:
        view: what to show.

    Returns:
        A `plotly.graph_objects.Figure`.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.add_trace(_trace(view, view.dominated, name=view.rest, mode="markers", marker={"color": _GREY, "size": 7}))
    figure.add_trace(
        _trace(
            view,
            view.front,
            name="front",
            mode="lines+markers+text" if _is_curve(view) else "markers+text",
            customdata=_labels_with_room(view),
            texttemplate="%{customdata}",
            textposition="top left",
            cliponaxis=False,
            marker={"color": _BLUE, "size": 10},
            line={"color": _BLUE, "width": 2},
        )
    )
    if view.knee is not None:
        ring = {"color": "rgba(0,0,0,0)", "size": 18, "line": {"color": _RED, "width": 3}}
        figure.add_trace(_trace(view, [view.knee], name=f"knee {view.knee.label}", mode="markers", marker=ring))
    figure.add_hline(
        y=view.teacher_val_accuracy,
        line={"color": "#3c4043", "dash": "dash", "width": 1.5},
        name=f"teacher, {percent(view.teacher_val_accuracy)}",
        showlegend=True,  # a label on the line would lie on points
    )
    costs = [float(getattr(candidate, view.cost)) for candidate in view.plotted]
    ticks = axis_ticks(view.cost, costs)
    figure.update_layout(
        template="plotly_white",
        title={"text": _title(view).replace(", with", "<br>with"), "y": 0.97, "yanchor": "top"},
        legend={"orientation": "h", "x": 0, "y": 1.01, "xanchor": "left", "yanchor": "bottom"},
        margin={"l": 70, "r": 30, "t": 110},
        hoverlabel={"align": "left"},
        xaxis={
            "type": "log",
            "title": AXIS_TITLES[view.cost],
            "range": [math.log10(end) for end in axis_range(costs)] if costs else None,
            "tickvals": list(ticks),
            "ticktext": list(ticks.values()),
        },
        yaxis={"title": "validation accuracy", "tickformat": ".1~%"},
    )
    return figure


def save_front(view: FrontView, folder: Path) -> tuple[Path, Path]:
    """Write the interactive page, readable offline, and the still image into a folder; the two files.

    Args:
        view: what to show.
        folder: the search's. The page takes about 5 MB, as it brings its own library; the image is of 1440x900.
    """
    files = (folder / PAGE, folder / PICTURE)
    for file, content in zip(files, (_page(view).encode(), _png(view)), strict=True):
        write_atomically(file, content)
    return files


def _page(view: FrontView) -> str:
    figure = front_figure(view).to_html(
        include_plotlyjs=True, full_html=False, default_height="100vh", config={"displaylogo": False}
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{_title(view)}</title></head>\n<body style="margin:0">{figure}</body></html>\n'
    )


def _labels_with_room(view: FrontView) -> list[str]:
    """Labels of the front, the knee's first; none where it would cover another one's."""
    costs, accuracies = _coordinates(view, view.plotted)
    width = _LABEL[0] * math.log(max(costs, default=1.0) / min(costs, default=1.0))
    height = _LABEL[1] * (max(accuracies, default=0.0) - min(accuracies, default=0.0))
    named: dict[Candidate, tuple[float, float]] = {}
    for candidate in sorted(view.front, key=lambda candidate: not view.is_knee(candidate)):
        x, y = math.log(getattr(candidate, view.cost)), candidate.val_accuracy
        if all(abs(x - other) > width or abs(y - another) > height for other, another in named.values()):
            named[candidate] = x, y
    return [candidate.label if candidate in named else "" for candidate in view.front]


def front_table(view: FrontView) -> str:
    """The front as a Markdown table by rising cost, the knee marked and what has collapsed.

    Args:
        view: what to show.

    Returns:
        A table with a line a candidate of the front, ending in a newline.
    """
    head = ["candidate", "val accuracy", "against teacher", "MACs", "MACs kept", "params", "params kept", "latency, ms"]
    rows = [
        (
            _named(view, candidate),
            percent(candidate.val_accuracy, 2),
            f"{100 * (candidate.val_accuracy - view.teacher_val_accuracy):+.2f} points",
            f"{candidate.macs:,}",
            percent(candidate.macs_kept, 2),
            f"{candidate.params:,}",
            percent(candidate.params_kept, 2),
            "–" if candidate.latency_ms is None else f"{candidate.latency_ms:.3g}",
        )
        for candidate in view.front
    ]
    return table(head, rows) + "\n"


def _named(view: FrontView, candidate: Candidate) -> str:
    remarks = view.remarks(candidate)
    name = f"**{candidate.label}**" if "knee" in remarks else candidate.label
    return f"{name} ({', '.join(remarks)})" if remarks else name


def front_json(view: FrontView, hypervolume: float) -> str:
    """The front with all that is known of its candidates, as JSON.

    Args:
        view: what to show.
        hypervolume: of the front.
    """
    content = {
        "objectives": list(view.objectives),
        "hypervolume": hypervolume,
        "teacher_val_accuracy": view.teacher_val_accuracy,
        "knee": view.knee.label if view.knee else None,
        "front": [readable(candidate) for candidate in view.front],
    }
    return json.dumps(content, indent=2)


def readable(candidate: Candidate) -> dict[str, Any]:
    """A candidate as plain values ready for JSON, its configuration unpacked."""
    return dataclasses.asdict(candidate) | {"cascade": json.loads(candidate.cascade)}


def _is_curve(view: FrontView) -> bool:
    # With a third objective the front is a surface, and a line through its shadow would say nothing.
    return len(view.objectives) == 2


def _title(view: FrontView) -> str:
    return f"{len(view.front)} of {len(view.candidates)} networks on the front{further_objectives(view)}"


def further_objectives(view: FrontView) -> str:
    """What a front is of beside accuracy and the cost that is drawn, as words behind it; nothing where that is all."""
    others = [name for name in view.objectives if name not in ("val_accuracy", view.cost)]
    further = "a further objective" if len(others) == 1 else "further objectives"
    return f", with {' and '.join(others)} as {further}" if others else ""


def _trace(view: FrontView, candidates: Sequence[Candidate], **style: object) -> Any:  # noqa: ANN401
    import plotly.graph_objects as go

    return go.Scatter(
        x=[getattr(candidate, view.cost) for candidate in candidates],
        y=[candidate.val_accuracy for candidate in candidates],
        text=[_hover(candidate, view.teacher_val_accuracy) for candidate in candidates],
        hovertemplate="%{text}<extra></extra>",
        **style,
    )


def _hover(candidate: Candidate, teacher_val_accuracy: float) -> str:
    lines = [
        f"<b>{candidate.label}</b> (trial:level, {candidate.num_assistants} assistants)",
        f"accuracy {percent(candidate.val_accuracy, 2)} "
        f"({100 * (candidate.val_accuracy - teacher_val_accuracy):+.2f} points against the teacher)",
        f"MACs {candidate.macs:,} ({percent(candidate.macs_kept, 2)}, {1 / candidate.macs_kept:.1f} times fewer)",
        f"params {candidate.params:,} ({percent(candidate.params_kept, 2)}, "
        f"{1 / candidate.params_kept:.1f} times fewer)",
    ]
    if candidate.latency_ms is not None:
        lines.append(f"latency {candidate.latency_ms:.3g} ms")
    if candidate.fidelity < 1.0:
        lines.append(f"stopped early, after {percent(candidate.fidelity, 0)} of its epochs")
    return "<br>".join(lines)


def axis_ticks(cost: str, costs: Sequence[float]) -> dict[float, str]:
    """Positions 1, 2, 5, 10 … over the costs and one step beyond, with their labels; closer ones for a short axis."""
    labels = _labels(cost, _STEPS[0])
    if not costs:
        return labels
    low, high = axis_range(costs)
    for steps in _STEPS:
        labels = _labels(cost, steps)
        if sum(low <= tick <= high for tick in labels) >= _FEWEST_TICKS:
            break
    return {tick: text for tick, text in labels.items() if min(costs) / 2.5 <= tick <= max(costs) * 2.5} or labels


def axis_range(costs: Sequence[float]) -> tuple[float, float]:
    """Where the axis of these costs begins and ends.

    Args:
        costs: one at least, above 0.
    """
    return min(costs) / _MARGIN, max(costs) * _MARGIN


def _labels(cost: str, steps: Sequence[float]) -> dict[float, str]:
    ticks = [float(f"{step}e{power}") for power in range(-4, 5) for step in steps]
    if cost == "latency_ms":
        return {tick: f"{tick:g}" for tick in ticks}
    return {tick: f"{100 * tick:g} %" for tick in ticks if tick <= 1}


def new_figure(*, figsize: tuple[float, float], dpi: float = 100) -> "Figure":
    """An empty still picture; Matplotlib says nothing of the user's home, as it does where that cannot be written to.

    Args:
        figsize: width and height in inches.
        dpi: pixels an inch.
    """
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        from matplotlib.figure import Figure  # alone: pyplot keeps figures in module state, and picks a backend
    finally:
        logger.setLevel(level)
    return Figure(figsize=figsize, dpi=dpi, layout="constrained")


def _png(view: FrontView) -> bytes:
    figure = new_figure(figsize=(9.6, 6.0), dpi=150)
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw_points(axes, view)
    _draw_axes(axes, view)
    figure.draw_without_rendering()  # lays the axes out, so that positions in pixels are known
    _draw_labels(axes, view)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_points(axes: Any, view: FrontView) -> None:  # noqa: ANN401
    axes.scatter(*_coordinates(view, view.dominated), s=26, color=_GREY, linewidths=0, label=view.rest)
    line = "-" if _is_curve(view) else "none"
    look = {"linestyle": line, "color": _BLUE, "marker": "o", "markersize": 7}
    if view.front:
        axes.plot(*_coordinates(view, view.front), **look, label="front", zorder=3)
    if view.knee is not None:
        point = _coordinates(view, [view.knee])
        axes.scatter(*point, s=190, facecolors="none", edgecolors=_RED, linewidths=2.2, zorder=4, label="knee")
    teacher = f"teacher, {percent(view.teacher_val_accuracy)}"
    axes.axhline(view.teacher_val_accuracy, color="#3c4043", linestyle="--", linewidth=1.2, label=teacher, zorder=1)


def _draw_axes(axes: Any, view: FrontView) -> None:  # noqa: ANN401
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

    axes.set_xscale("log")
    costs = [float(getattr(candidate, view.cost)) for candidate in view.plotted]
    ticks = axis_ticks(view.cost, costs)
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.xaxis.set_minor_locator(NullLocator())
    if costs:
        axes.set_xlim(*axis_range(costs))
    axes.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
    axes.margins(y=0.09)
    axes.set_xlabel(AXIS_TITLES[view.cost])
    axes.set_ylabel("validation accuracy")
    axes.set_title(_title(view), loc="left", fontsize=12)
    axes.grid(visible=True, color="#e8eaed", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure = axes.get_figure()
    figure.legend(loc="outside lower center", ncols=4, frameon=False)  # beside the points, wherever these are


def _draw_labels(axes: Any, view: FrontView) -> None:  # noqa: ANN401
    """Write trial:level at the points of the front, the knee first, leaving out what would cover another label."""
    from matplotlib.patheffects import withStroke

    points = [axes.transData.transform(point) for point in zip(*_coordinates(view, view.front), strict=True)]
    taken: list[Any] = []
    for candidate in sorted(view.front, key=lambda candidate: candidate != view.knee):
        is_knee = candidate == view.knee
        # Above and to the left of a rising front nothing else is drawn.
        label = axes.annotate(
            candidate.label,
            (getattr(candidate, view.cost), candidate.val_accuracy),
            xytext=(-9, 8) if is_knee else (-6, 6),
            textcoords="offset points",
            ha="right",
            fontsize=9,
            fontweight="bold" if is_knee else "normal",
            color=_RED if is_knee else "#202124",
            path_effects=[withStroke(linewidth=3, foreground="white")],
            zorder=5,
        )
        box = label.get_window_extent()
        if any(box.overlaps(other) for other in taken) or any(box.contains(x, y) for x, y in points):
            label.remove()
        else:
            taken.append(box)


def _coordinates(view: FrontView, candidates: Sequence[Candidate]) -> tuple[list[float], list[float]]:
    costs = [float(getattr(candidate, view.cost)) for candidate in candidates]
    return costs, [candidate.val_accuracy for candidate in candidates]
