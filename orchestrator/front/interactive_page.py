"""The picture of a front for a browser: what a point is can be read by resting on it."""

import math
from collections.abc import Sequence
from typing import Any

from orchestrator.front.archive import Candidate
from orchestrator.front.drawing import (
    ACCURACY_TITLE,
    AXIS_TITLES,
    BLACK,
    BLUE,
    GREY,
    RED,
    axis_range,
    axis_ticks,
    coordinates,
    knee_first,
    teacher_label,
)
from orchestrator.front.front_view import FrontView
from orchestrator.words import percent

_LABEL = (0.14, 0.04)  # width and height of a label, as parts of the axes on a telephone


def front_figure(view: FrontView) -> Any:  # noqa: ANN401 - plotly comes without types
    """An interactive scatter of accuracy against cost, with the front, the knee and the teacher marked.

    Args:
        view: what to show.

    Returns:
        A `plotly.graph_objects.Figure`.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.add_trace(_trace(view, view.dominated, name=view.rest, mode="markers", marker={"color": GREY, "size": 7}))
    figure.add_trace(
        _trace(
            view,
            view.front,
            name="front",
            mode="lines+markers+text" if view.is_curve else "markers+text",
            customdata=_labels_with_room(view),
            texttemplate="%{customdata}",
            textposition="top left",
            cliponaxis=False,
            marker={"color": BLUE, "size": 10},
            line={"color": BLUE, "width": 2},
        )
    )
    if view.knee is not None:
        ring = {"color": "rgba(0,0,0,0)", "size": 18, "line": {"color": RED, "width": 3}}
        figure.add_trace(_trace(view, [view.knee], name=f"knee {view.knee.label}", mode="markers", marker=ring))
    figure.add_hline(
        y=view.teacher_val_accuracy,
        line={"color": BLACK, "dash": "dash", "width": 1.5},
        name=teacher_label(view),
        showlegend=True,  # a label on the line would lie on points
    )
    costs, _ = coordinates(view, view.plotted)
    ticks = axis_ticks(view.cost, costs)
    figure.update_layout(
        template="plotly_white",
        title={"text": view.title.replace(", with", "<br>with"), "y": 0.97, "yanchor": "top"},
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
        yaxis={"title": ACCURACY_TITLE, "tickformat": ".1~%"},
    )
    return figure


def page(view: FrontView) -> str:
    """The whole page; about 5 MB, as it brings its own library and is readable offline."""
    figure = front_figure(view).to_html(
        include_plotlyjs=True, full_html=False, default_height="100vh", config={"displaylogo": False}
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{view.title}</title></head>\n<body style="margin:0">{figure}</body></html>\n'
    )


def _trace(view: FrontView, candidates: Sequence[Candidate], **style: object) -> Any:  # noqa: ANN401
    import plotly.graph_objects as go

    costs, accuracies = coordinates(view, candidates)
    return go.Scatter(
        x=costs,
        y=accuracies,
        text=[_hover(candidate, view.teacher_val_accuracy) for candidate in candidates],
        hovertemplate="%{text}<extra></extra>",
        **style,
    )


def _labels_with_room(view: FrontView) -> list[str]:
    """Labels of the front, the knee's first; none where it would cover another one's."""
    costs, accuracies = coordinates(view, view.plotted)
    width = _LABEL[0] * math.log(max(costs, default=1.0) / min(costs, default=1.0))
    height = _LABEL[1] * (max(accuracies, default=0.0) - min(accuracies, default=0.0))
    named: dict[Candidate, tuple[float, float]] = {}
    for candidate in knee_first(view):
        x, y = math.log(getattr(candidate, view.cost)), candidate.val_accuracy
        if all(abs(x - other) > width or abs(y - another) > height for other, another in named.values()):
            named[candidate] = x, y
    return [candidate.label if candidate in named else "" for candidate in view.front]


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
