"""The picture of a front that stands still, as PNG."""

import io
import logging
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def png(view: FrontView) -> bytes:
    """The picture, of 1440x900."""
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
    axes.scatter(*coordinates(view, view.dominated), s=26, color=GREY, linewidths=0, label=view.rest)
    line = "-" if view.is_curve else "none"
    look = {"linestyle": line, "color": BLUE, "marker": "o", "markersize": 7}
    if view.front:
        axes.plot(*coordinates(view, view.front), **look, label="front", zorder=3)
    if view.knee is not None:
        point = coordinates(view, [view.knee])
        axes.scatter(*point, s=190, facecolors="none", edgecolors=RED, linewidths=2.2, zorder=4, label="knee")
    look = {"linestyle": "--", "color": BLACK, "linewidth": 1.2}
    axes.axhline(view.teacher_val_accuracy, **look, label=teacher_label(view), zorder=1)


def _draw_axes(axes: Any, view: FrontView) -> None:  # noqa: ANN401
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

    axes.set_xscale("log")
    costs, _ = coordinates(view, view.plotted)
    ticks = axis_ticks(view.cost, costs)
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.xaxis.set_minor_locator(NullLocator())
    if costs:
        axes.set_xlim(*axis_range(costs))
    axes.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
    axes.margins(y=0.09)
    axes.set_xlabel(AXIS_TITLES[view.cost])
    axes.set_ylabel(ACCURACY_TITLE)
    axes.set_title(view.title, loc="left", fontsize=12)
    axes.grid(visible=True, color="#e8eaed", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure = axes.get_figure()
    figure.legend(loc="outside lower center", ncols=4, frameon=False)  # beside the points, wherever these are


def _draw_labels(axes: Any, view: FrontView) -> None:  # noqa: ANN401
    """Write trial:level at the points of the front, the knee first, leaving out what would cover another label."""
    from matplotlib.patheffects import withStroke

    points = [axes.transData.transform(point) for point in zip(*coordinates(view, view.front), strict=True)]
    taken: list[Any] = []
    for candidate in knee_first(view):
        is_knee = view.is_knee(candidate)
        # Above and to the left of a rising front nothing else is drawn.
        label = axes.annotate(
            candidate.label,
            (getattr(candidate, view.cost), candidate.val_accuracy),
            xytext=(-9, 8) if is_knee else (-6, 6),
            textcoords="offset points",
            ha="right",
            fontsize=9,
            fontweight="bold" if is_knee else "normal",
            color=RED if is_knee else "#202124",
            path_effects=[withStroke(linewidth=3, foreground="white")],
            zorder=5,
        )
        box = label.get_window_extent()
        if any(box.overlaps(other) for other in taken) or any(box.contains(x, y) for x, y in points):
            label.remove()
        else:
            taken.append(box)


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
