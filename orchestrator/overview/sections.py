"""Sections of the overview on how networks came to be: what moved them, how they learned and what they kept."""

from collections import Counter
from collections.abc import Sequence
from html import escape

from orchestrator.front.archive import Candidate
from orchestrator.overview.charts import Frame, Line, count_ticks, lines, percent_ticks
from orchestrator.overview.gather import Overview
from orchestrator.overview.importance import Importance
from orchestrator.overview.words import duration
from orchestrator.searches.curves import TrialCurve
from orchestrator.words import counted, percent
from trainables.pruning_config import UNITS

_MOST_CURVES = 12
_MOST_COLUMNS = 12
_MOST_BARS = 8
_COLOURS = ("c1", "c2", "c3", "c4", "c5")
_TOLD_GAP = 0.01  # between a result and its curve's end, from which it is explained
_TRUSTED = 0.2  # R² below which importances are said to be guesses


def importance_section(overview: Overview) -> str:
    """What moved the results."""
    if not overview.importances:
        return ""
    cards = "".join(_importance_card(what, one) for what, one in overview.importances.items())
    return (
        "<section><h2>What moved it</h2>"
        '<p class="soft">How much worse a forest of decision trees predicts a trial’s result when one parameter is '
        "shuffled, as a part of all parameters together. <i>Distance to the front</i> compares each trial with the "
        f'front at its own cost.</p><div class="cards">{cards}</div></section>'
    )


def _importance_card(what: str, found: Importance) -> str:
    bars = "".join(
        f'<span>{escape(name)}</span><i style="width:{100 * part:.1f}%"></i><span>{percent(part, 0)}</span>'
        for name, part in list(found.shares.items())[:_MOST_BARS]
    )
    if found.explained < _TRUSTED:
        trust = "The forest hardly predicts trials that it has not seen, so take this for a guess."
    else:
        trust = f"The forest explains {percent(found.explained, 0)} of the differences between trials it has not seen."
    drawn = f", drawn at random out of {found.num_known:,}" if found.num_known > found.num_trials else ""
    return (
        f'<div class="card"><h3>{escape(what[0].upper() + what[1:])}</h3><div class="bars">{bars}</div>'
        f'<p class="soft">{trust} {found.num_trials:,} trials{drawn}.</p></div>'
    )


def curves_section(overview: Overview) -> str:
    """How the levels of the front's trials learned."""
    on_front: dict[int, list[Candidate]] = {}
    for candidate in overview.view.front:
        on_front.setdefault(candidate.trial, []).append(candidate)
    known = {curve.trial: curve for curve in overview.curves}
    shown = [known[trial] for trial in on_front if trial in known][:_MOST_CURVES]
    if not shown:
        return ""
    charts = "".join(_curve_chart(curve, on_front[curve.trial], overview) for curve in shown)
    left = len(on_front) - len(shown)
    are = "is" if left == 1 else "are"
    more = f" {counted(left, 'more trial')} of the front {are} in the folder <code>curves</code>." if left > 0 else ""
    anew = ""
    if any(_gap(curve) > _TOLD_GAP for curve in shown):
        anew = (
            " Some results lie away from where their curves end, as statistics of batch normalisation are measured "
            "anew after the last epoch, and a recovery that validation finds worse is left aside."
        )
    return (
        "<section><h2>How levels learned</h2>"
        '<p class="soft">Validation accuracy by epoch of each level, the largest first, in the trials of the front. '
        "Dips are channels going; a level is at its size when they end."
        f'{anew}{more}</p><div class="many">{charts}</div></section>'
    )


def _gap(curve: TrialCurve) -> float:
    """How far a level's result lies from the end of its curve at the most."""
    ends = {point.level: point.val_accuracy for point in curve.points}
    return max((abs(result.val_accuracy - ends[result.level]) for result in curve.results), default=0.0)


def _curve_chart(curve: TrialCurve, members: Sequence[Candidate], overview: Overview) -> str:
    levels = sorted({point.level for point in curve.points})
    by_level = {
        level: [(float(p.trial_epoch), p.val_accuracy) for p in curve.points if p.level == level] for level in levels
    }
    values = [overview.teacher.val_accuracy, *(value for series in by_level.values() for _, value in series)]
    low, high = max(0.0, min(values) - 0.02), min(1.0, max(values) + 0.02)
    last = max(point.trial_epoch for point in curve.points)
    frame = Frame(
        width=360,
        height=200,
        x_range=(1.0, float(max(last, 2))),
        y_range=(low, high),
        x_ticks={tick: text for tick, text in count_ticks(last).items() if tick >= 1},
        y_ticks=percent_ticks(low, high, 4),
    )
    colours = {level: _COLOURS[(level - 1) % len(_COLOURS)] for level in levels}
    drawn = [Line(points=by_level[level], name=f"level {level}", kind=colours[level]) for level in levels]
    unit = UNITS[curve.cascade.pruning.size_in]
    sizes = {level: f"{percent(curve.cascade.macs_kept[level - 1], 2)} of the {unit}" for level in levels}
    keys = "".join(
        f'<span class="key"><svg viewBox="0 0 22 12"><line class="{colours[level]}" stroke-width="3" x1="0" x2="22" '
        f'y1="6" y2="6"/></svg>level {level}, {sizes[level]}</span>'
        for level in levels
    )
    labels = ", ".join(candidate.label for candidate in members)
    inside = frame.teacher(overview.teacher.val_accuracy) + lines(frame, drawn)
    title = f"Validation accuracy by epoch of the levels of trial {curve.trial}"
    return (
        f"<div><h3>Trial {curve.trial} ({curve.cascade.schedule}; front: {labels})</h3>"
        f"{frame.svg(inside, title=title, x_title='epoch', y_title='validation accuracy')}<div>{keys}</div></div>"
    )


def widths_section(overview: Overview) -> str:
    """What each layer of the front's networks kept."""
    known = [candidate for candidate in overview.view.front if overview.widths.get(candidate.label)]
    shown = known[:_MOST_COLUMNS]
    if not shown:
        return ""
    left = len(known) - len(shown)
    more = (
        f" Not shown: {counted(left, 'more network')} of the front; their folders have <code>architecture.json</code>."
    )
    more = more if left else ""
    kept = [{one.layer: one.kept for one in overview.widths[candidate.label]} for candidate in shown]
    groups: list[tuple[list[str], int, list[int | None]]] = []
    for one in overview.widths[shown[0].label]:
        widths = [layers.get(one.layer) for layers in kept]
        # A convolution's normalisation, and layers that are added to one another, keep the same channels.
        if groups and groups[-1][1:] == (one.full, widths):
            groups[-1][0].append(one.layer)
        else:
            groups.append(([one.layer], one.full, widths))
    rows = [
        f"<tr><td>{escape(_named(names))}</td><td>{full}</td>{''.join(_width(width, full) for width in widths)}</tr>"
        for names, full, widths in groups
    ]
    heads = "".join(f'<th class="width">{candidate.label}</th>' for candidate in shown)
    return (
        "<section><h2>What layers kept</h2>"
        '<p class="soft">Output channels of each layer, the teacher’s first; layers that follow one another and keep '
        "the same share a row. The stronger the colour, the larger the part that was kept: pale rows are where the "
        f"teacher had more than it needed.{more}</p>"
        f'<div class="scroll"><table><thead><tr><th>layer</th><th>teacher</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _named(layers: Sequence[str]) -> str:
    return layers[0] if len(layers) == 1 else f"{layers[0]} … {layers[-1]}"


def _width(width: int | None, full: int) -> str:
    if width is None:
        return "<td>–</td>"
    part = width / full if full else 0.0
    return f'<td class="width" style="--share:{0.6 * part:.3f}" title="{percent(part, 0)} of {full}">{width}</td>'


def cost_section(overview: Overview) -> str:
    """What the search took, and what came to nothing."""
    known = overview.ends
    ends = Counter((curve.end for curve in overview.curves) if known is None else known.values())
    seconds = {curve.trial: _seconds(curve) for curve in overview.curves}
    epochs = sum(_epochs(curve) for curve in overview.curves)
    on_front = {candidate.trial for candidate in overview.view.front}
    spent_on_front = sum(value for trial, value in seconds.items() if trial in on_front)
    rows = [
        ("teacher’s training", duration(overview.teacher.seconds) if overview.teacher.seconds else "read from a file"),
        ("trials that finished", str(ends["finished"])),
        ("… were stopped early", str(ends["stopped"])),
        ("… failed" if known is not None else "… failed after their first epoch", str(ends["failed"])),
        ("epochs in all trials", f"{epochs:,}"),
        ("training time of all trials, added up", duration(sum(seconds.values()))),
        ("… of the trials that are on the front", duration(spent_on_front)),
    ]
    if overview.teacher.reused:
        rows[0] = ("teacher’s training", f"{duration(overview.teacher.seconds)}, taken over from another search")
    body = "".join(f"<tr><td>{name}</td><td>{value}</td></tr>" for name, value in rows)
    return (
        "<section><h2>What it took</h2>"
        f'<div class="scroll facts"><table><tbody>{body}</tbody></table></div>'
        '<p class="soft">Epochs that were taken over from equal stages count with the time that they once '
        "took.</p></section>"
    )


def _seconds(curve: TrialCurve) -> float:
    """Wall time of a trial's epochs; each epoch is told once for all of its levels."""
    return sum({point.trial_epoch: point.seconds for point in curve.points}.values())


def _epochs(curve: TrialCurve) -> int:
    return len({point.trial_epoch for point in curve.points})
