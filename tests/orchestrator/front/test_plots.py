"""Figures of a front: what they show, that they read offline, and that no front is too small for them."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from orchestrator.front.archive import Candidate
from orchestrator.front.front_view import FrontView
from orchestrator.front.pareto import front, knee
from orchestrator.front.plots import axis_range, axis_ticks, front_figure, front_json, front_table, save_front


def candidate(trial: int, val_accuracy: float, macs_kept: float, latency_ms: float | None = None) -> Candidate:
    return Candidate(
        trial=trial,
        level=1,
        num_assistants=0,
        val_accuracy=val_accuracy,
        val_accuracy_before_recalibration=val_accuracy,
        macs=int(1e7 * macs_kept),
        macs_kept=macs_kept,
        params=int(1e6 * macs_kept),
        params_kept=macs_kept,
        latency_ms=latency_ms,
        network=f"networks/{trial}",
        cascade='{"macs_kept": [0.1]}',
    )


POPULATION = (
    candidate(0, 0.60, 0.01, 0.2),
    candidate(1, 0.95, 0.03, 0.3),
    candidate(2, 0.90, 0.20, 0.9),
    candidate(3, 0.98, 0.40, 1.8),
)


def view(candidates: tuple[Candidate, ...], *objectives: str) -> FrontView:
    objectives = objectives or ("val_accuracy", "macs_kept")
    found = front(candidates, objectives)
    return FrontView(
        candidates=candidates,
        front=found,
        knee=knee(found, objectives),
        teacher_val_accuracy=0.985,
        objectives=objectives,
    )


def test_figure_separates_front_knee_and_dominated() -> None:
    figure = front_figure(view(POPULATION))
    traces = {trace.name: trace for trace in figure.data}
    assert list(traces["dominated"].x) == [0.20]
    assert list(traces["front"].x) == [0.01, 0.03, 0.40]
    assert traces["front"].mode == "lines+markers+text"
    assert list(traces["knee 1:1"].y) == [0.95]
    assert figure.layout.shapes[0].y0 == figure.layout.shapes[0].y1 == 0.985
    assert figure.layout.xaxis.type == "log"
    assert figure.layout.xaxis.ticktext == ("0.5 %", "1 %", "2 %", "5 %", "10 %", "20 %", "50 %", "100 %")


def test_the_still_image_is_drawn_in_silence_where_there_is_no_home() -> None:
    script = "from orchestrator.front.plots import new_figure; new_figure(figsize=(1, 1))"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "MPL"))}
    named = {
        "HOME": os.devnull,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }  # below which nobody, not even root, may write
    done = subprocess.run(
        [sys.executable, "-c", script], env=kept | named, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout + done.stderr == ""


def test_a_front_that_constraints_leave_empty_is_drawn(tmp_path: Path) -> None:
    none = dataclasses.replace(
        view(POPULATION), front=(), knee=None, breaking=frozenset(candidate.key for candidate in POPULATION)
    )
    assert [trace.name for trace in front_figure(none).data] == ["dominated, or breaking a constraint", "front"]
    save_front(none, tmp_path)
    with Image.open(tmp_path / "front.png") as image:
        assert image.size == (1440, 900)


def test_the_page_is_one_for_telephones_and_has_a_name(tmp_path: Path) -> None:
    page = save_front(view(POPULATION), tmp_path)[0].read_text()
    assert page.startswith('<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport"')
    assert "<title>3 of 4 networks on the front</title>" in page
    assert page.count("<html") == page.count("</html>") == 1


def test_points_of_the_front_are_named_where_there_is_room_the_knee_first() -> None:
    close = (candidate(4, 0.949, 0.029), candidate(5, 0.952, 0.0305))
    shown = front_figure(dataclasses.replace(view((*POPULATION, *close)), knee=close[1])).data[1]
    labels = dict(zip(shown.x, shown.customdata, strict=True))
    assert labels == {0.01: "0:1", 0.029: "", 0.03: "", 0.0305: "5:1", 0.40: "3:1"}
    assert shown.texttemplate == "%{customdata}"


def test_legends_lie_beside_the_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    legend = front_figure(view(POPULATION)).layout.legend
    assert (legend.orientation, legend.yanchor) == ("h", "bottom")
    assert legend.y > 1
    saved: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_args, **_kwargs: saved.append(self))
    save_front(view(POPULATION), tmp_path)
    (axes,) = saved[0].axes
    assert axes.get_legend() is None
    (legend,) = saved[0].legends
    assert not legend.get_window_extent().overlaps(axes.get_window_extent())
    assert [text.get_text() for text in legend.get_texts()] == ["dominated", "front", "knee", "teacher, 98.5 %"]


def test_hover_tells_what_a_candidate_is() -> None:
    (text,) = front_figure(view((candidate(7, 0.97, 0.04, 1.25),))).data[1].text
    for part in ("7:1", "97.00 %", "-1.50 points", "400,000", "25.0 times fewer", "1.25 ms"):
        assert part in text


def test_front_of_three_objectives_is_not_joined_by_a_line() -> None:
    figure = front_figure(view(POPULATION, "val_accuracy", "macs_kept", "latency_ms"))
    assert figure.data[1].mode == "markers+text"
    assert "latency_ms" in figure.layout.title.text


@pytest.mark.parametrize(
    ("objectives", "line"),
    [(("val_accuracy", "macs_kept"), "-"), (("val_accuracy", "macs_kept", "latency_ms"), "None")],
)
def test_the_still_image_joins_a_front_of_two_objectives_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objectives: tuple[str, ...], line: str
) -> None:
    saved: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_args, **_kwargs: saved.append(self))
    save_front(view(POPULATION, *objectives), tmp_path)
    (drawn,) = (one for one in saved[0].axes[0].lines if one.get_label() == "front")
    assert drawn.get_linestyle() == line


def test_axis_is_the_first_cost_when_macs_are_no_objective() -> None:
    shown = view(POPULATION, "val_accuracy", "latency_ms")
    figure = front_figure(shown)
    assert list(figure.data[1].x) == [0.2, 0.3, 1.8]
    assert figure.layout.xaxis.title.text == "latency, ms an image"
    with_unmeasured = dataclasses.replace(shown, candidates=(*POPULATION, candidate(9, 0.5, 0.5)))
    assert list(front_figure(with_unmeasured).data[0].x) == [0.9]


@pytest.mark.parametrize("cost", ["latency_ms", "macs_kept"])
@given(costs=st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=4))
def test_an_axis_has_three_ticks_at_least_and_not_too_many(cost: str, costs: list[float]) -> None:
    low, high = axis_range(costs)
    assert low < min(costs) <= max(costs) < high
    shown = [tick for tick in axis_ticks(cost, costs) if low <= tick <= high]
    assert 3 <= len(shown) <= 3 * math.log10(high / low) + 6


def test_a_narrow_axis_of_latency_is_marked_closely() -> None:
    narrow = tuple(
        candidate(trial, accuracy, 0.1, latency)
        for trial, (accuracy, latency) in enumerate([(0.6, 0.117), (0.9, 0.2), (0.95, 0.276)])
    )
    axis = front_figure(view(narrow, "val_accuracy", "latency_ms")).layout.xaxis
    low, high = (10**end for end in axis.range)
    assert low < 0.117 < 0.276 < high
    shown = [text for tick, text in zip(axis.tickvals, axis.ticktext, strict=True) if low <= tick <= high]
    assert shown == ["0.1", "0.15", "0.2", "0.3", "0.4"]


@pytest.mark.parametrize("size", [0, 1, 4])
def test_saved_figures_read_offline_and_hold_a_picture(tmp_path: Path, size: int) -> None:
    html, png = save_front(view(POPULATION[:size]), tmp_path)
    page = html.read_text()
    assert "<script src=" not in page
    assert "Plotly.newPlot" in page
    with Image.open(png) as image:
        assert image.size == (1440, 900)
        assert len(image.convert("RGB").getcolors(1 << 21)) > 10
    assert sorted(tmp_path.iterdir()) == [html, png]


@pytest.mark.parametrize("objectives", [("val_accuracy", "latency_ms"), ("val_accuracy", "params_kept", "macs_kept")])
def test_saving_works_for_other_objectives(tmp_path: Path, objectives: tuple[str, ...]) -> None:
    save_front(view(POPULATION, *objectives), tmp_path)
    assert (tmp_path / "front.png").stat().st_size > 10_000


def test_table_lists_the_front_and_marks_the_knee() -> None:
    lines = front_table(view(POPULATION)).splitlines()
    assert len(lines) == 2 + 3
    assert lines[3] == "| **1:1** (knee) | 95.00 % | -3.50 points | 300,000 | 3 % | 30,000 | 3 % | 0.3 |"
    assert {line.count("|") for line in lines} == {9}


def test_table_marks_what_has_collapsed() -> None:
    shown = dataclasses.replace(view(POPULATION), collapsed_below=0.955)
    names = [line.split("|")[1].strip() for line in front_table(shown).splitlines()[2:]]
    assert [name for name in names if "collapsed" in name][-1] == "**1:1** (knee, collapsed)"
    assert any("collapsed" not in name for name in names)


def test_json_names_the_knee_and_unpacks_configurations() -> None:
    content = json.loads(front_json(view(POPULATION), 0.9))
    assert content["knee"] == "1:1"
    assert [entry["trial"] for entry in content["front"]] == [0, 1, 3]
    assert content["front"][0]["cascade"] == {"macs_kept": [0.1]}


def test_of_very_many_candidates_a_part_is_drawn_and_the_front_whole(make_candidate, monkeypatch):
    monkeypatch.setattr("orchestrator.front.front_view._MOST_DRAWN", 10)
    best = [make_candidate(trial=number, val_accuracy=0.9, macs_kept=0.1) for number in (3, 77)]
    others = [make_candidate(trial=number, val_accuracy=0.5, macs_kept=0.5) for number in range(4, 77)]
    found = sorted([*best, *others], key=lambda candidate: candidate.key)
    view = FrontView(
        candidates=found, front=best, knee=None, teacher_val_accuracy=0.95, objectives=("val_accuracy", "macs_kept")
    )
    assert 5 <= len(view.dominated) <= 10
    assert set(best) <= set(view.plotted)
    assert view.rest == "dominated (10 of 73)"
