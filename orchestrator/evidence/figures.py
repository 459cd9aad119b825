"""Pictures of a study: accuracy over size, and differences from the reference, with intervals."""

from io import BytesIO
from typing import TYPE_CHECKING

from orchestrator.evidence.summary import Line, Summary
from orchestrator.front.plots import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def accuracy_figure(summary: Summary) -> bytes:
    """Accuracy of every arm over the size, with 95 % intervals, as PNG."""
    figure = new_figure(figsize=(9, 5))
    axes = figure.subplots()
    arms = list(dict.fromkeys(line.arm for line in summary.lines))
    for number, arm in enumerate(arms):
        lines = [line for line in summary.lines if line.arm == arm and line.accuracy is not None]
        shift = 1 + 0.012 * (number - len(arms) / 2)  # so that intervals do not hide one another
        _with_intervals(axes, lines, shift, label=_as_text(arm), marker=_MARKERS[number % len(_MARKERS)])
    axes.set_xscale("log")
    sizes = sorted({100 * line.size for line in summary.lines})
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("MACs kept, % of the teacher's")
    axes.set_ylabel("test accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small", frameon=False)
    return _png(figure)


_MARKERS = "osD^v<>PX*"


def _with_intervals(axes: "Axes", lines: list[Line], shift: float, *, label: str, marker: str) -> None:
    places, means, below, above = [], [], [], []
    for line in lines:
        found = line.accuracy
        assert found is not None
        places.append(100 * line.size * shift)
        means.append(100 * found.mean)
        # These differ where the interval is cut at 0 or 100 %.
        below.append(0.0 if found.low is None else 100 * (found.mean - found.low))
        above.append(0.0 if found.high is None else 100 * (found.high - found.mean))
    axes.errorbar(places, means, yerr=(below, above), marker=marker, markersize=4, linewidth=1, capsize=2, label=label)


def difference_figure(summary: Summary, reference: str) -> bytes:
    """Difference of every arm from the reference at each size, in points, with 95 % intervals, as PNG."""
    sizes = list(dict.fromkeys(line.size for line in summary.lines))
    arms = [arm for arm in dict.fromkeys(line.arm for line in summary.lines) if arm != reference]
    figure = new_figure(figsize=(3.2 * len(sizes) + 1.5, 0.32 * len(arms) + 1.4))
    panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for axes, size in zip(panels, sizes, strict=True):
        for line in summary.lines:
            if line.size != size or line.against is None:
                continue
            found = line.against.estimate
            half = 0.0 if found.high is None else 100 * (found.high - found.mean)
            colour = {"better": "tab:green", "worse": "tab:red"}.get(line.against.verdict, "tab:gray")
            axes.errorbar(100 * found.mean, arms.index(line.arm), xerr=half, marker="o", color=colour, capsize=3)
        axes.axvline(0.0, color="black", linewidth=0.8)
        axes.set_title(f"{100 * size:g} % of the MACs", fontsize="small")
        axes.set_yticks(range(len(arms)), map(_as_text, arms), fontsize="small")
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.set_xlabel(f"points above {_as_text(reference)}", fontsize="small")
        axes.grid(axis="x", alpha=0.3)
    return _png(figure)


def _as_text(name: str) -> str:
    """A name as it is, where what stands between two dollars is a formula."""
    return name.replace("$", r"\$")


def _png(figure: "Figure") -> bytes:
    sink = BytesIO()
    figure.savefig(sink, format="png", dpi=130)
    return sink.getvalue()
