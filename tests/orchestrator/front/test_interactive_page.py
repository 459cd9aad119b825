"""The picture for a browser: what it shows, names and tells."""

import dataclasses

from orchestrator.front.interactive_page import front_figure, page
from tests.orchestrator.front.fronts import POPULATION, candidate, view


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


def test_the_page_is_one_for_telephones_and_has_a_name() -> None:
    text = page(view(POPULATION))
    assert text.startswith('<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport"')
    assert "<title>3 of 4 networks on the front</title>" in text
    assert text.count("<html") == text.count("</html>") == 1


def test_points_of_the_front_are_named_where_there_is_room_the_knee_first() -> None:
    close = (candidate(4, 0.949, 0.029), candidate(5, 0.952, 0.0305))
    shown = front_figure(dataclasses.replace(view((*POPULATION, *close)), knee=close[1])).data[1]
    labels = dict(zip(shown.x, shown.customdata, strict=True))
    assert labels == {0.01: "0:1", 0.029: "", 0.03: "", 0.0305: "5:1", 0.40: "3:1"}
    assert shown.texttemplate == "%{customdata}"


def test_hover_tells_what_a_candidate_is() -> None:
    (text,) = front_figure(view((candidate(7, 0.97, 0.04, 1.25),))).data[1].text
    for part in ("7:1", "97.00 %", "-1.50 points", "400,000", "25.0 times fewer", "1.25 ms"):
        assert part in text


def test_front_of_three_objectives_is_not_joined_by_a_line() -> None:
    figure = front_figure(view(POPULATION, "val_accuracy", "macs_kept", "latency_ms"))
    assert figure.data[1].mode == "markers+text"
    assert "latency_ms" in figure.layout.title.text


def test_axis_is_the_first_cost_when_macs_are_no_objective() -> None:
    shown = view(POPULATION, "val_accuracy", "latency_ms")
    figure = front_figure(shown)
    assert list(figure.data[1].x) == [0.2, 0.3, 1.8]
    assert figure.layout.xaxis.title.text == "latency, ms an image"
    with_unmeasured = dataclasses.replace(shown, candidates=(*POPULATION, candidate(9, 0.5, 0.5)))
    assert list(front_figure(with_unmeasured).data[0].x) == [0.9]


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


def test_the_legend_lies_above_the_points() -> None:
    legend = front_figure(view(POPULATION)).layout.legend
    assert (legend.orientation, legend.yanchor) == ("h", "bottom")
    assert legend.y > 1
