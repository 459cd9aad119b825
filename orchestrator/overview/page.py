"""The overview as one HTML page, section by section."""

import math
import re
from html import escape
from pathlib import Path

from orchestrator.front.archive import Candidate
from orchestrator.front.constraints import unmet
from orchestrator.front.drawing import ACCURACY_TITLE, AXIS_TITLES, axis_range, axis_ticks
from orchestrator.overview.charts import SIZES, Frame, Point, count_ticks, lines, percent_ticks, scatter, value_ticks
from orchestrator.overview.charts import Line as ChartLine
from orchestrator.overview.gather import Links, Overview, gather
from orchestrator.overview.sections import cost_section, curves_section, importance_section, widths_section
from orchestrator.overview.style import STYLE
from orchestrator.overview.words import fewer, points_text, signed_points
from orchestrator.searches.folder import SearchFolder
from orchestrator.searches.layout import OVERVIEW
from orchestrator.storage.whole_files import write_atomically
from orchestrator.words import counted, percent

_COSTS = {"macs_kept": "MACs", "params_kept": "parameters", "latency_ms": "latency"}
_OPTION = re.compile("--[a-z-]+")
_WHAT = {
    "knee": "When in doubt",
    "smallest": "The smallest by {cost}",
    "most-accurate": "The most accurate",
}


def write_overview(folder: SearchFolder, links: Links | None = None) -> Path:
    """Write the page of a search as it is on disk now; the file.

    Args:
        folder: of the search.
        links: to its runs; as they were noted last if left out.

    Raises:
        InputError: if there is no such search, or no trial of it is finished.
    """
    overview = gather(folder, links)
    path = folder.path / OVERVIEW
    write_atomically(path, html(overview).encode())
    return path


def html(overview: Overview) -> str:
    """The whole page."""
    sections = [
        _cards(overview),
        _front_section(overview),
        _table_section(overview),
        importance_section(overview),
        _growth_section(overview),
        curves_section(overview),
        widths_section(overview),
        cost_section(overview),
    ]
    main = "\n".join(section for section in sections if section)
    title = f"{overview.name}: {counted(len(overview.view.front), 'network')} on the front"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        f"{_head(overview)}\n<main>\n{main}\n</main>\n{_foot(overview)}\n</body></html>\n"
    )


def _head(overview: Overview) -> str:
    view, experiment = overview.view, overview.experiment
    trials = counted(len({candidate.trial for candidate in view.candidates}), "trial")
    networks, on_front = counted(len(view.candidates), "network"), len(view.front)
    further = view.further_objectives
    told = "none of which is on the front"
    if on_front:
        better = "better in all of these" if further else "both more accurate and cheaper"
        told = f"of which {on_front} {'is' if on_front == 1 else 'are'} on the front{further}: no other is {better}"
    return (
        f"<header><h1>{escape(overview.name)}</h1>"
        f'<p class="soft">Teacher {escape(experiment.model.name)} on {escape(experiment.data.name)}: '
        f"{percent(overview.teacher.val_accuracy, 2)} validation accuracy, {overview.teacher.macs:,} MACs, "
        f"{overview.teacher.params:,} parameters. {trials} gave {networks}, {told}.</p></header>"
    )


def _cards(overview: Overview) -> str:
    if not overview.picks:
        why = unmet(overview.experiment.constraints, overview.view.candidates) or "the front is empty"
        return f"<p>{escape(why[0].upper() + why[1:])}.</p>"
    cards = []
    for how, candidate in overview.picks.items():
        what = _WHAT[how].format(cost=_COSTS[overview.view.cost])
        latency = "" if candidate.latency_ms is None else f", {candidate.latency_ms:.3g} ms an image"
        cards.append(
            f'<div class="card {how}"><h2>{what}: {_name(overview, candidate)}'
            f"{' (collapsed)' if overview.view.is_collapsed(candidate) else ''}</h2>"
            f"<b>{percent(candidate.val_accuracy, 2)} at {percent(candidate.macs_kept, 2)} of the MACs</b>"
            f"<p>{points_text(candidate, overview.teacher.val_accuracy)}; {fewer(candidate.macs_kept)} fewer MACs, "
            f"{fewer(candidate.params_kept)} fewer parameters{latency}.</p>"
            f"{_code(overview.folder.export_command(how))}</div>"
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def _name(overview: Overview, candidate: Candidate) -> str:
    """A candidate's label, leading to its run where that is known."""
    href = overview.links.to(f"trial/{candidate.trial}/network/{candidate.level}")
    label = escape(candidate.label)
    return f'<a href="{escape(href, quote=True)}" target="_blank" rel="noopener">{label}</a>' if href else label


def _code(command: str) -> str:
    """A command that no line ends within an option of."""
    text = _OPTION.sub(r"<span>\g<0></span>", escape(command))
    return f"<code>{text}</code>"


def _front_section(overview: Overview) -> str:
    view = overview.view
    if not view.plotted:
        return ""
    charts = "".join(_front_chart(overview, css) for css in SIZES)
    lowest = _lowest(overview)
    below = sum(candidate.val_accuracy < lowest for candidate in view.plotted)
    lie = "lies" if below == 1 else "lie"
    hidden = f" {counted(below, 'more network')} {lie} below what is shown." if below else ""
    if overview.teacher.val_accuracy < lowest:
        hidden += f" The teacher lies below what is shown, at {percent(overview.teacher.val_accuracy, 2)}."
    click = ", click one of the front to find it in the table" if view.front else ""
    click += " (MLflow itself, where it shows this page, does not go there)" if click and overview.links.runs else ""
    marks = (
        '<span class="key"><svg viewBox="0 0 22 12"><circle class="front" cx="11" cy="6" r="5"/></svg>front</span>'
        '<span class="key"><svg viewBox="0 0 22 12"><circle class="ring" cx="11" cy="6" r="4.5"/></svg>knee</span>'
    )
    marks = marks if view.front else ""
    return (
        "<section><h2>The front</h2>"
        '<p class="soft">Each point is a network that is really narrower; <i>trial:level</i> names it. Up and to the '
        f"left is better. Rest on a point to read it{click}.{hidden}</p>"
        f"{charts}<p>{marks}"
        f'<span class="key"><svg viewBox="0 0 22 12"><circle class="rest" cx="11" cy="6" r="4"/></svg>{view.rest}'
        "</span></p></section>"
    )


def _lowest(overview: Overview) -> float:
    """Where the vertical axis begins: what lies far below the front would press the front against the upper edge."""
    view = overview.view
    best = max(candidate.val_accuracy for candidate in (*view.plotted, *view.front))
    worst = min(candidate.val_accuracy for candidate in view.front or view.plotted)
    lowest = min(candidate.val_accuracy for candidate in view.plotted)
    return max(lowest, worst - 0.5 * max(best - worst, 0.02))


def _front_chart(overview: Overview, css: str) -> str:
    view, teacher = overview.view, overview.teacher
    lowest = _lowest(overview)
    plotted = [candidate for candidate in view.plotted if candidate.val_accuracy >= lowest]
    costs = [float(getattr(candidate, view.cost)) for candidate in plotted]
    accuracies = [candidate.val_accuracy for candidate in plotted] + [max(teacher.val_accuracy, lowest)]
    low, high = _padded(min(accuracies), max(accuracies))
    left, right = axis_range(costs)
    frame = Frame(
        width=SIZES[css],
        height=340 if css == "narrow" else 470,
        x_range=(left, right),
        y_range=(low, high),
        x_ticks={tick: text for tick, text in axis_ticks(view.cost, costs).items() if left <= tick <= right},
        y_ticks=percent_ticks(low, high),
        x_scale=math.log,
    )
    keys = {candidate.key for candidate in view.front}
    points = [
        Point(
            x=float(getattr(candidate, view.cost)),
            y=candidate.val_accuracy,
            title=f"{candidate.label}: {percent(candidate.val_accuracy, 2)} at {percent(candidate.macs_kept, 2)} of "
            f"the MACs, {points_text(candidate, teacher.val_accuracy)}",
            kind="knee" if candidate == view.knee else "front" if candidate.key in keys else "rest",
            label=candidate.label if candidate.key in keys else "",
            href=f"#{_anchor(candidate)}" if candidate.key in keys else "",
        )
        for candidate in plotted
    ]
    is_shown = low <= teacher.val_accuracy <= high  # one that was hardly trained may lie far below
    line = (teacher.val_accuracy, f"teacher, {percent(teacher.val_accuracy, 2)}") if is_shown else None
    inside = scatter(frame, points, joined=view.is_curve, teacher=line)
    title = f"Validation accuracy of {counted(len(points), 'network')} against {AXIS_TITLES[view.cost]}"
    return frame.svg(inside, title=title, x_title=AXIS_TITLES[view.cost], y_title=ACCURACY_TITLE, css=css)


def _table_section(overview: Overview) -> str:
    view = overview.view
    if not view.front:
        return ""
    has_latency = any(candidate.latency_ms is not None for candidate in view.front)
    head = ["network", "accuracy", "against teacher", "MACs kept", "fewer MACs", "params kept", "parameters"]
    head += ["latency, ms"] if has_latency else []
    rows = []
    for candidate in view.front:
        cells = [
            _name(overview, candidate),
            percent(candidate.val_accuracy, 2),
            signed_points(candidate, overview.teacher),
            percent(candidate.macs_kept, 2),
            fewer(candidate.macs_kept),
            percent(candidate.params_kept, 2),
            f"{candidate.params:,}",
        ]
        if has_latency:
            cells.append("–" if candidate.latency_ms is None else f"{candidate.latency_ms:.3g}")
        remarks = view.remarks(candidate)
        cells[0] += f" ({', '.join(remarks)})" if remarks else ""
        row = "".join(f"<td>{cell}</td>" for cell in cells)
        export = f'<td class="words">{_code(overview.folder.export_command(candidate.label))}</td>'
        css = ' class="knee"' if "knee" in remarks else ""
        rows.append(f'<tr{css} id="{_anchor(candidate)}">{row}{export}</tr>')
    heads = "".join(f"<th>{name}</th>" for name in head) + '<th class="words">how to export it</th>'
    linked = (
        "Names lead to the run in MLflow (with a local store, while <code>cascade ui</code> is open on its usual port, "
        "5000; where MLflow itself shows this page it blocks links, so download it there or open it in the search’s "
        "folder). "
    )
    return (
        "<section><h2>Networks of the front</h2>"
        f'<p class="soft">{linked if overview.links.runs else ""}Accuracy is that on validation images, which chose '
        "these networks and so flatter them; an export measures test accuracy, "
        f"{_code(overview.folder.command('confirm', overview.name))} trains again with other seeds.</p>"
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        "</section>"
    )


def _growth_section(overview: Overview) -> str:
    volumes = overview.hypervolumes
    if len(volumes) < 2 or not overview.view.front:
        return ""
    steps: list[tuple[float, float]] = []
    for trial, volume in volumes.items():
        steps += [(float(trial), steps[-1][1])] if steps else []
        steps.append((float(trial), volume))
    low, high = _padded(min(volumes.values()), max(volumes.values()))
    last = max(volumes)
    charts = []
    for css, width in SIZES.items():
        frame = Frame(
            width=width,
            height=220,
            x_range=(min(volumes), last),
            y_range=(low, high),
            x_ticks={tick: text for tick, text in count_ticks(last).items() if tick >= min(volumes)},
            y_ticks=value_ticks(low, high, 4),
        )
        drawn = lines(frame, [ChartLine(points=steps, name="hypervolume of the front", kind="c1")])
        charts.append(
            frame.svg(
                drawn, title="Hypervolume of the front by trial", x_title="trial number", y_title="hypervolume", css=css
            )
        )
    return (
        "<section><h2>How the front grew</h2>"
        '<p class="soft">Hypervolume: the part of the space between “no accuracy at the teacher’s cost” and '
        "perfection that the front covers, of the networks of all trials up to a number. Flat at the end means that "
        "more trials were not finding more. (MLflow counts trials as they ended.)</p>"
        f"{''.join(charts)}</section>"
    )


def _foot(overview: Overview) -> str:
    folder, name = overview.folder, overview.name
    return (
        f"<footer><h2>Go on</h2><p>{_code(folder.command('report', name))} writes this page anew, "
        f"{_code(folder.command('ui'))} opens MLflow, "
        f"{_code(folder.export_command('TRIAL:LEVEL'))} exports any network, on the front or not.</p>"
        "</footer>"
    )


def _anchor(candidate: Candidate) -> str:
    return f"network-{candidate.trial}-{candidate.level}"


def _padded(low: float, high: float) -> tuple[float, float]:
    pad = (high - low) * 0.08 if high - low > 1e-6 else 0.01  # what is not rounding
    return max(0.0, low - pad), min(1.0, high + pad)
