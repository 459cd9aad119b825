"""What a report says of results that are made up."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer

from orchestrator.evidence.figures import accuracy_figure, difference_figure
from orchestrator.evidence.pages import Code, Heading, Listing, Paragraph, Picture, Table, to_html, to_markdown
from orchestrator.evidence.plan import StudyPlan
from orchestrator.evidence.report import not_shown, shown, write_report
from orchestrator.evidence.results import Found, RunResult
from orchestrator.evidence.settings import Run
from orchestrator.evidence.statistics import holm
from orchestrator.evidence.summary import Summary, summarise

ARMS = {
    "plain": {},
    "chain": {"assistants": 1},
    "all": {"method": "one-cascade"},
    "peer": {"method": "torch-pruning"},
}
NUM_TEST = 2000
NOISE = (0.001, -0.002, 0.0, 0.002, -0.001)


def made(run: Run, *accuracies: float, macs_kept: tuple[float, ...] = ()) -> RunResult:
    sizes = macs_kept or (run.size,) * len(accuracies)
    return RunResult(
        key=run.key,
        arm=run.arm,
        size=run.size,
        seed=run.seed,
        learning_rate=run.learning_rate,
        purpose=run.purpose,
        found=tuple(
            Found(
                level=level,
                num_levels=len(accuracies),
                macs_kept=size,
                params_kept=size,
                macs=100,
                params=10,
                val_accuracy=accuracy,
                test_accuracy=accuracy,
            )
            for level, (accuracy, size) in enumerate(zip(accuracies, sizes, strict=True), start=1)
        ),
        epochs=5,
        work=10.0,
        seconds=60.0,
        device="cpu",
        versions={"torch": "1", "engine": "a"},
        config={},
        failure=None if accuracies else "it diverged",
    )


@pytest.fixture
def plan(plain) -> StudyPlan:
    changed = {"sizes": [0.5, 0.3], "seeds": [1, 2, 3, 4, 5], "arms": ARMS, "budget": {"amount": 10}}
    return StudyPlan.from_dict(plain | changed)


@pytest.fixture
def results(plan: StudyPlan) -> dict[str, RunResult]:
    """The chain is two points better at 0.3 and no better at 0.5; the peer is as good as plain."""
    found = {}
    for seed, noise in zip(plan.seeds, NOISE, strict=True):
        for size, lift in ((0.5, 0.0), (0.3, 0.02)):
            for arm, accuracy in (("plain", 0.9), ("chain", 0.9 + lift + noise / 2), ("peer", 0.9 - noise)):
                run = plan.run(arm, size, seed, 0.05, "measured")
                found[run.key] = made(run, accuracy + noise)
        run = plan.run("all", 0.3, seed, 0.05, "measured")
        found[run.key] = made(run, 0.95 + noise, 0.85 + noise, macs_kept=(0.499, 0.303))
    return found


def test_lines_compare_on_the_same_seeds(plan: StudyPlan, results: Mapping[str, RunResult]) -> None:
    lines = {(line.arm, line.size): line for line in summarise(plan, results, num_test=NUM_TEST).lines}
    assert len(lines) == 8
    chain = lines["chain", 0.3]
    assert chain.against is not None
    assert chain.against.estimate.mean == pytest.approx(0.02)
    assert chain.against.verdict == "better"
    assert lines["plain", 0.3].against is None
    assert lines["chain", 0.5].against is not None
    assert lines["chain", 0.5].against.verdict == "not told apart"  # type: ignore[union-attr]
    large, small = lines["all", 0.5], lines["all", 0.3]
    assert large.accuracy is not None
    assert small.accuracy is not None
    assert (large.accuracy.mean, small.accuracy.mean) == (pytest.approx(0.95), pytest.approx(0.85))
    assert large.work == 5.0  # one run for two sizes
    assert (large.macs_kept, small.macs_kept) == (pytest.approx(0.499), pytest.approx(0.303))


def test_the_best_cascade_meets_the_best_peer(plan: StudyPlan, results: Mapping[str, RunResult]) -> None:
    duels = {duel.size: duel for duel in summarise(plan, results, num_test=NUM_TEST).duels}
    assert (duels[0.3].own, duels[0.3].other, duels[0.3].difference.verdict) == ("chain", "peer", "better")
    assert duels[0.5].own == "all"


def test_a_mean_of_few_seeds_is_not_the_best(plan: StudyPlan, results: dict[str, RunResult]) -> None:
    for seed in plan.seeds[1:]:
        del results[plan.run("chain", 0.3, seed, 0.05, "measured").key]
    duels = {duel.size: duel for duel in summarise(plan, results, num_test=NUM_TEST).duels}
    assert duels[0.3].own == "plain"


@pytest.mark.parametrize("reference", ["chain", "peer"])
def test_a_duel_with_the_reference_is_no_second_test(
    plan: StudyPlan, results: Mapping[str, RunResult], reference: str
) -> None:
    arms = {name: ARMS[name] for name in ("plain", "chain", "peer")}
    study = StudyPlan.from_dict(plan.to_dict() | {"arms": arms, "sizes": [0.3], "reference": reference})
    summary = summarise(study, results, num_test=NUM_TEST)
    tests = {line.arm: line.against for line in summary.lines if line.against is not None}
    (duel,) = summary.duels
    assert (duel.own, duel.other) == ("chain", "peer")
    assert [found.adjusted for found in tests.values()] == holm([found.p_value for found in tests.values()])
    (same,) = (found for name, found in tests.items() if name in ("chain", "peer"))
    assert duel.difference.adjusted == same.adjusted
    assert abs(duel.difference.estimate.mean) == pytest.approx(abs(same.estimate.mean))


def test_words_say_what_is_shown(plan: StudyPlan, results: Mapping[str, RunResult]) -> None:
    sentences = list(shown(plan, summarise(plan, results, num_test=NUM_TEST)))
    assert any(s.startswith("At 30 % of the MACs above plain: chain +2.00 points (") for s in sentences)
    assert any("At 30 % of the MACs below plain: all -5.00 points" in s for s in sentences)
    assert any("the best cascade, chain, is better than the best of Torch-Pruning, peer: +2.00" in s for s in sentences)
    only = StudyPlan.from_dict(plan.to_dict() | {"arms": {"plain": {}, "peer": ARMS["peer"]}})
    assert "At 50 % of the MACs no arm is told apart from plain." in shown(
        only, summarise(only, results, num_test=NUM_TEST)
    )


def test_words_say_what_is_not(plan: StudyPlan, results: dict[str, RunResult]) -> None:
    first = plan.run("chain", 0.3, 1, 0.05, "measured")
    results[first.key] = made(first)
    del results[plan.run("peer", 0.5, 2, 0.05, "measured").key]
    summary = summarise(plan, results, num_test=NUM_TEST)
    text = "\n".join(not_shown(plan, summary, list(results.values()), {}))
    assert "Still to be done: 1 run; what is there" in text
    assert "Runs that failed are left out of means: chain at 30 % (1)." in text
    assert (
        "These spent less than 90 % of the budget, as one epoch more would have gone farther beyond it: all at 50 %, "
        "all at 30 %."
    ) in text
    assert "most_epochs" not in text
    ended = StudyPlan.from_dict(plan.to_dict() | {"budget": {"amount": 10, "most_epochs": 5}})
    limited = "\n".join(not_shown(ended, summary, list(results.values()), {}))
    assert "as most_epochs came first: all at 50 %, all at 30 %." in limited
    assert "farther beyond" not in limited
    assert "several versions" not in text
    other = made(plan.run("plain", 0.3, 1, 0.05, "measured"), 0.9)
    other = RunResult.from_dict(other.to_dict() | {"versions": {"torch": "2", "engine": "a"}, "device": "card"})
    text = "\n".join(not_shown(plan, summary, [*results.values(), other], {}))
    assert "several versions of torch." in text
    assert "several kinds of machine" in text
    assert "the arms' code" not in text
    later = RunResult.from_dict(other.to_dict() | {"versions": {"torch": "2", "engine": "a", "arms": "b"}})
    text = "\n".join(not_shown(plan, summary, [other, later], {}))
    assert "several versions of the arms' code." in text


def test_every_run_that_is_missing_is_told_once(plan: StudyPlan, results: dict[str, RunResult]) -> None:
    def told() -> str:
        summary = summarise(plan, results, num_test=NUM_TEST)
        return "\n".join(not_shown(plan, summary, list(results.values()), {}))

    assert "Still to be done" not in told()
    del results[plan.run("all", 0.3, 4, 0.05, "measured").key]  # which gives both sizes
    assert "Still to be done: 1 run;" in told()
    del results[plan.run("all", 0.3, 5, 0.05, "measured").key]
    del results[plan.run("chain", 0.5, 5, 0.05, "measured").key]
    assert "Still to be done: 3 runs;" in told()


def test_a_report_is_written_whole(plan: StudyPlan, results: Mapping[str, RunResult], tmp_path: Path) -> None:
    write_report(plan, results, {"test_accuracy": 0.97}, tmp_path, num_test=NUM_TEST)
    text = (tmp_path / "report.md").read_text()
    assert "teacher vgg-small at width 0.125, test accuracy 97.00 %; 5 seeds" in text
    assert "| chain | 92.00 (" in text
    assert "reference: plain" in text  # the exact configuration
    for name in ("accuracy.png", "differences.png"):
        assert f"]({name})" in text
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page
    table = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert len(table) == 5 * (3 * 2 + 2)
    assert {row["arm"] for row in table} == {*ARMS}


def test_intervals_are_drawn_as_they_are(plan: StudyPlan, results: dict[str, RunResult], monkeypatch) -> None:
    for seed, accuracy in zip(plan.seeds, (1.0, 0.95, 1.0, 1.0, 1.0), strict=True):
        run = plan.run("chain", 0.3, seed, 0.05, "measured")
        results[run.key] = made(run, accuracy)
        del results[plan.run("peer", 0.3, seed, 0.05, "measured").key]
        del results[plan.run("peer", 0.5, seed, 0.05, "measured").key]
    summary = summarise(plan, results, num_test=NUM_TEST)
    drawn: dict[str, list[tuple[float, float]]] = {}
    errorbar = Axes.errorbar

    def noted(axes: Axes, x, y, *, yerr, label: str, **options):
        below, above = np.broadcast_to(yerr, (2, len(y)))  # one number a place is for both sides
        drawn[label] = list(zip(y - below, y + above, strict=True))
        return errorbar(axes, x, y, yerr=yerr, label=label, **options)

    monkeypatch.setattr(Axes, "errorbar", noted)
    accuracy_figure(summary)
    assert max(high for _, high in drawn["chain"]) == 100.0
    for arm, ends in drawn.items():
        found = [line.accuracy for line in summary.lines if line.arm == arm and line.accuracy is not None]
        assert ends == [pytest.approx((100 * one.low, 100 * one.high)) for one in found]


def test_a_difference_is_drawn_to_where_its_interval_is_cut(plan: StudyPlan, monkeypatch) -> None:
    plan = StudyPlan.from_dict(plan.to_dict() | {"arms": {"plain": {}, "peer": ARMS["peer"]}, "seeds": [1, 2]})
    found = {"plain": (0.1, 0.2), "peer": (0.9, 0.5)}
    runs = [(plan.run(arm, 0.3, seed, 0.05, "measured"), found[arm][seed - 1]) for arm in found for seed in (1, 2)]
    summary = summarise(plan, {run.key: made(run, accuracy) for run, accuracy in runs}, num_test=NUM_TEST)
    drawn: list[tuple[float, float]] = []
    errorbar = Axes.errorbar

    def noted(axes: Axes, x, y, *, xerr, **options):
        (below,), (above,) = xerr
        drawn.append((x - below, x + above))
        return errorbar(axes, x, y, xerr=xerr, **options)

    monkeypatch.setattr(Axes, "errorbar", noted)
    difference_figure(summary, plan.reference)
    assert drawn == [pytest.approx((-100, 100))]


def many(plan: StudyPlan, accuracies: Mapping[str, float]) -> Summary:
    """Of arms that are equal at both sizes, one seed each."""
    plan = StudyPlan.from_dict(
        plan.to_dict()
        | {
            "arms": {arm: {"cascade": {"temperature": 1 + number}} for number, arm in enumerate(accuracies)},
            "seeds": [1],
            "reference": next(iter(accuracies)),
        }
    )
    runs = [
        (plan.run(arm, size, 1, 0.05, "measured"), accuracy)
        for arm, accuracy in accuracies.items()
        for size in plan.sizes
    ]
    return summarise(plan, {run.key: made(run, accuracy) for run, accuracy in runs}, num_test=NUM_TEST)


def test_arms_look_different_and_stay_near_their_size(plan: StudyPlan, monkeypatch) -> None:
    seen: list[ErrorbarContainer] = []
    errorbar = Axes.errorbar
    monkeypatch.setattr(Axes, "errorbar", lambda *given, **more: seen.append(errorbar(*given, **more)) or seen[-1])
    accuracy_figure(many(plan, {f"arm-{number}": 0.9 for number in range(23)}))
    lines = [container[0] for container in seen]
    assert len({(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines}) == 23
    for line in lines:
        np.testing.assert_allclose(np.sort(line.get_xdata(orig=False)), [30, 50], rtol=0.041)


def test_what_lies_far_below_is_written_at_the_edge(plan: StudyPlan, monkeypatch) -> None:
    written: list[Axes] = []
    monkeypatch.setattr("orchestrator.evidence.figures._png", lambda figure: written.extend(figure.axes) or b"")
    near = {f"arm-{number}": 0.9 + 0.01 * number for number in range(8)}
    accuracy_figure(many(plan, near | {"far": 0.27}))
    accuracy_figure(many(plan, near))
    accuracy_figure(many(plan, {"best": 0.9, "far": 0.27}))  # half of all, which is what the picture is of
    cut, whole, two = written
    assert cut.get_ylim()[0] > 80
    assert [text.get_text() for text in cut.texts] == ["↓ far 27.0", "↓ far 27.0"]
    assert not whole.texts
    assert not two.texts
    assert two.get_ylim()[0] < 27


def test_a_difference_far_from_the_others_is_written_at_the_edge(plan: StudyPlan, monkeypatch) -> None:
    written: list[Axes] = []
    monkeypatch.setattr("orchestrator.evidence.figures._png", lambda figure: written.extend(figure.axes) or b"")
    near = {f"arm-{number}": 0.5 + 0.01 * number for number in range(8)}
    difference_figure(many(plan, near | {"far": 0.27}), "arm-0")
    difference_figure(many(plan, near | {"far": 0.77}), "arm-0")
    difference_figure(many(plan, near | {"not-so-far": 0.45}), "arm-0")
    difference_figure(many(plan, {"best": 0.9, "far": 0.27}), "best")
    below, above, all_, two = written[::2]  # the first of two sizes
    assert below.get_xlim()[0] > -2
    assert above.get_xlim()[1] < 9
    assert [text.get_text() for axes in (below, above) for text in axes.texts] == ["← −23.0", "27.0 →"]
    assert not all_.texts
    assert all_.get_xlim()[0] < -5
    assert not two.texts
    assert two.get_xlim()[0] < -63


def test_a_name_with_dollars_is_no_formula(plan: StudyPlan, results: Mapping[str, RunResult]) -> None:
    named = {rf"$\{name}$": arm for name, arm in ARMS.items()}
    plan = StudyPlan.from_dict(plan.to_dict() | {"arms": named, "reference": r"$\plain$"})
    summary = summarise(plan, results, num_test=NUM_TEST)
    assert accuracy_figure(summary).startswith(b"\x89PNG")
    assert difference_figure(summary, plan.reference).startswith(b"\x89PNG")


def test_a_report_of_nothing_yet_can_be_written(plan: StudyPlan, tmp_path: Path) -> None:
    write_report(plan, {}, {}, tmp_path, num_test=NUM_TEST)
    assert "Still to be done: " in (tmp_path / "report.md").read_text()


def test_blocks_look_as_they_should() -> None:
    blocks = [
        Heading(text="A & b"),
        Paragraph(text="Words < more."),
        Listing(points=("one", "two")),
        Table(head=("x", "y"), rows=(("1", "<2>"),)),
        Picture(name="p.png", png=b"png", caption="A picture"),
        Code(text="a: 1\n"),
        Heading(text="Next"),
    ]
    assert to_markdown(blocks) == (
        "# A & b\n\nWords < more.\n\n- one\n- two\n\n| x | y |\n| --- | --- |\n| 1 | <2> |\n\n![A picture](p.png)\n\n"
        "```yaml\na: 1\n```\n\n## Next\n"
    )
    page = to_html(blocks)
    assert "<h1>A &amp; b</h1>" in page
    assert "<h2>Next</h2>" in page
    assert "<td>&lt;2&gt;</td>" in page
    assert "<li>one</li><li>two</li>" in page
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert '<div class="scroll" tabindex="0"><table>' in page, "which a narrow page can hold"
    assert "color-scheme:light dark" in page


def test_markdown_shows_names_as_they_are() -> None:
    name = "a|b <b>*x*</b> [y](z) `c` _d_ e_f &lt; \\ ~g~\nh"
    shown = r"a\|b \<b>\*x\*\</b> \[y\](z) \`c\` \_d\_ e_f \&lt; \\ \~g\~ h"
    picture = Picture(name="p.png", png=b"png", caption=name)
    table = Table(head=(name, "y"), rows=((name, "1"),))
    text = to_markdown([Heading(text=name), Paragraph(text=name), Listing(points=(name,)), table, picture])
    assert text == (
        f"# {shown}\n\n{shown}\n\n- {shown}\n\n| {shown} | y |\n| --- | --- |\n| {shown} | 1 |\n\n![{shown}](p.png)\n"
    )


def test_a_teacher_that_has_learnt_nothing_is_told(plan: StudyPlan, results: Mapping[str, RunResult]) -> None:
    summary = summarise(plan, results, num_test=NUM_TEST)

    def first(val_accuracy: float) -> str:
        about = {"val_accuracy": val_accuracy, "val_guess": 0.1, "test_accuracy": val_accuracy}
        return next(iter(not_shown(plan, summary, [], about)))

    assert first(0.8).startswith("Anything beyond")
    assert first(0.11).startswith("What a teacher that has learnt would have given: the teacher is at 11.00 % on")
