"""Pictures of a study: accuracy over size, and differences from the reference, with intervals."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from statistics import median
from typing import TYPE_CHECKING

from orchestrator.evidence.statistics import Difference, Estimate
from orchestrator.evidence.summary import Line, Summary
from orchestrator.front.still_picture import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def accuracy_figure(summary: Summary) -> bytes:
    """Accuracy of every arm over the size, with 95 % intervals, as PNG; what lies far below the rest is written."""
    figure = new_figure(figsize=(9, 5))
    axes = figure.subplots()
    known = [line for line in summary.lines if line.accuracy is not None]
    arms = list(dict.fromkeys(line.arm for line in summary.lines))
    step = min(0.012, 2 * _SPREAD / len(arms))  # so that intervals do not hide one another
    for number, arm in enumerate(arms):
        look = _MARKERS[number % len(_MARKERS)], _STYLES[number // len(_MARKERS) % len(_STYLES)]
        shift = 1 + step * (number - (len(arms) - 1) / 2)
        _with_intervals(axes, [line for line in known if line.arm == arm], shift, label=_as_text(arm), look=look)
    _leave_out(axes, [line for line in known if _mean(line) < _lowest([_mean(line) for line in known])], known)
    axes.set_xscale("log")
    sizes = sorted({100 * line.size for line in summary.lines})
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("MACs kept, % of the teacher's")
    axes.set_ylabel("test accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small", frameon=False, handlelength=3)
    return _png(figure)


_MARKERS, _STYLES = "osD^v<>PX*", ("-", "--", ":", "-.")  # colours begin anew after ten arms, as markers do
_SPREAD = 0.04  # of arms to either side of their size


def _lowest(means: Sequence[float]) -> float:
    """The lowest of some means but for those, a quarter at most, that would press the others against the upper edge."""
    rising = sorted(means)
    for below in range(len(rising) // 4, 0, -1):
        first = rising[below]
        if first - rising[below - 1] > rising[-1] - first:
            return first
    return min(means, default=0.0)


def _leave_out(axes: "Axes", far: Sequence[Line], lines: Sequence[Line]) -> None:
    """End the axis above what lies far below, and write that at the lower edge."""
    if not far:
        return
    ends = [100 * end for line in lines if line not in far for end in _ends(line)]
    height = max(ends) - min(ends) or 1.0
    axes.set_ylim(min(ends) - 0.15 * height, max(ends) + 0.05 * height)
    for size in dict.fromkeys(line.size for line in far):
        here = [f"↓ {_as_text(line.arm)} {100 * _mean(line):.1f}" for line in far if line.size == size]
        side = "right" if size == max(line.size for line in lines) else "left"
        edge = axes.get_xaxis_transform()
        axes.text(100 * size, 0.01, "\n".join(here), transform=edge, ha=side, va="bottom", fontsize="small")


def _mean(line: Line) -> float:
    assert line.accuracy is not None
    return line.accuracy.mean


def _ends(line: Line) -> tuple[float, float]:
    assert line.accuracy is not None
    return _bounds(line.accuracy)


def _bounds(found: Estimate) -> tuple[float, float]:
    """Of the interval; twice the mean where there is none."""
    return found.mean if found.low is None else found.low, found.mean if found.high is None else found.high


def _with_intervals(axes: "Axes", lines: Sequence[Line], shift: float, *, label: str, look: tuple[str, str]) -> None:
    marker, style = look
    places = [100 * line.size * shift for line in lines]
    means = [100 * _mean(line) for line in lines]
    # These differ where the interval is cut at 0 or 100 %.
    below = [100 * (_mean(line) - _ends(line)[0]) for line in lines]
    above = [100 * (_ends(line)[1] - _mean(line)) for line in lines]
    axes.errorbar(
        places,
        means,
        yerr=(below, above),
        label=label,
        marker=marker,
        linestyle=style,
        markersize=4,
        linewidth=1,
        capsize=2,
    )


def difference_figure(summary: Summary, reference: str) -> bytes:
    """Difference of every arm from the reference at each size, in points, with 95 % intervals, as PNG.

    What lies far from the rest is written at the edge, as else it would press these together.
    """
    sizes = list(dict.fromkeys(line.size for line in summary.lines))
    arms = [arm for arm in dict.fromkeys(line.arm for line in summary.lines) if arm != reference]
    figure = new_figure(figsize=(3.2 * len(sizes) + 1.5, 0.32 * len(arms) + 1.4))
    panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for axes, size in zip(panels, sizes, strict=True):
        here = {line.arm: line.against for line in summary.lines if line.size == size and line.against is not None}
        far = _far(here)
        for arm, difference in here.items():
            draw = _far_difference if arm in far else _difference
            draw(axes, arms.index(arm), difference)
        axes.axvline(0.0, color="black", linewidth=0.8)
        axes.set_title(f"{100 * size:g} % of the MACs", fontsize="small")
        axes.set_yticks(range(len(arms)), map(_as_text, arms), fontsize="small")
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.set_xlabel(f"points above {_as_text(reference)}", fontsize="small")
        axes.grid(axis="x", alpha=0.3)
    return _png(figure)


def _far(differences: Mapping[str, Difference]) -> Sequence[str]:
    """Arms, a quarter at most, whose intervals lie beyond those of all others and zero by more than these span."""
    middle = median([0.0, *(difference.estimate.mean for difference in differences.values())])
    outwards = sorted(differences, key=lambda arm: abs(differences[arm].estimate.mean - middle))
    for number in range(len(outwards) // 4, 0, -1):
        near, far = outwards[:-number], outwards[-number:]
        ends = [0.0, *(end for arm in near for end in _bounds(differences[arm].estimate))]
        least, most = 2 * min(ends) - max(ends), 2 * max(ends) - min(ends)
        bounds = [_bounds(differences[arm].estimate) for arm in far]
        if max(ends) > min(ends) and all(high < least or low > most for low, high in bounds):
            return far
    return ()


def _difference(axes: "Axes", row: int, difference: Difference) -> None:
    found = difference.estimate
    low, high = _bounds(found)
    sides = [[100 * (found.mean - low)], [100 * (high - found.mean)]]
    axes.errorbar(100 * found.mean, row, xerr=sides, marker="o", color=_colour(difference), capsize=3)


def _far_difference(axes: "Axes", row: int, difference: Difference) -> None:
    mean = difference.estimate.mean
    low, high = _bounds(difference.estimate)
    interval = f" ({100 * low:.1f} … {100 * high:.1f})" if low < high else ""
    points = f"{100 * mean:.1f}{interval}".replace("-", "−")  # as the axis has it
    place, side, text = (0.02, "left", f"← {points}") if mean < 0 else (0.98, "right", f"{points} →")
    edge = axes.get_yaxis_transform()
    axes.text(place, row, text, transform=edge, ha=side, va="center", color=_colour(difference), fontsize="small")


def _colour(difference: Difference) -> str:
    return {"better": "tab:green", "worse": "tab:red"}.get(difference.verdict, "tab:gray")


def _as_text(name: str) -> str:
    """A name as it is, where what stands between two dollars is a formula."""
    return name.replace("$", r"\$")


def _png(figure: "Figure") -> bytes:
    sink = BytesIO()
    figure.savefig(sink, format="png", dpi=130)
    return sink.getvalue()
