"""The overview page: what it reads, what it says, and that it needs nothing beside itself."""

import dataclasses
import itertools
import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest
from optuna.trial import TrialState, create_trial

from orchestrator.experiment.config import Experiment, parse_experiment
from orchestrator.front.candidates import candidates_of
from orchestrator.overview.charts import Frame, Line, Point, count_ticks, lines, percent_ticks, scatter, value_ticks
from orchestrator.overview.gather import Links, gather
from orchestrator.overview.importance import importance
from orchestrator.overview.page import html, write_overview
from orchestrator.overview.sections import widths_section
from orchestrator.sampling.conclusions import CASCADE_ATTRIBUTE
from orchestrator.sampling.storages import find_or_make_study, study_address
from orchestrator.searches.curves import SCHEMA, _rows, write_table
from orchestrator.searches.folder import SearchFolder
from trainables.config import CascadeConfig
from trainables.errors import InputError
from trainables.recipe import Recipe
from trainables.results import EpochProgress, LevelProgress, LevelResult, TeacherResult

TEACHER = TeacherResult(val_accuracy=0.95, macs=1_000_000, params=1000, seconds=90.0, latency_ms=2.0)


def trial_of(number, sizes, accuracies, latency_ms=None):
    """Results and epochs of a trial."""
    results = [
        LevelResult(
            level=level,
            num_levels=len(sizes),
            val_accuracy=accuracy,
            val_accuracy_before_recalibration=accuracy,
            macs=int(1e6 * size),
            macs_kept=size,
            params=int(1e3 * size),
            params_kept=size,
            latency_ms=latency_ms,
        )
        for level, (size, accuracy) in enumerate(zip(sizes, accuracies, strict=True), start=1)
    ]
    epochs = [
        EpochProgress(
            stage="cascade",
            epoch=epoch,
            num_epochs=4,
            trial_epoch=epoch,
            learning_rate=0.1,
            seconds=2.0,
            levels=tuple(
                LevelProgress(level=result.level, macs_kept=1.0, train_loss=1.0, val_accuracy=epoch / 5)
                for result in results
            ),
        )
        for epoch in range(1, 5)
    ]
    return results, epochs


def note_end(folder, *, failed):
    """A trial in the study of a search, with nothing but its end."""
    study = find_or_make_study(study_address(folder.experiment(), folder))
    end = {"state": TrialState.FAIL} if failed else {"values": [0.9, 0.1]}
    study.add_trial(create_trial(**end, user_attrs={CASCADE_ATTRIBUTE: "{}"}))


@pytest.fixture
def folder(tmp_path):
    """A search of ten trials of two levels, the last of which failed."""
    folder = SearchFolder(storage=tmp_path / "runs", name="mine")
    folder.begin(Experiment())
    (folder.teacher / "network").mkdir(parents=True)
    (folder.teacher / "result.json").write_text(json.dumps(TEACHER.to_dict()))
    widths = {"conv1": [32, 3], "norm1": [32, 32], "fc": [10, 32]}
    (folder.teacher / "network/architecture.json").write_text(json.dumps({"widths": widths}))
    for number in range(10):
        sizes = (0.5 - number / 50, 0.05 + number / 100)
        accuracies = (0.96 - number / 1000, 0.80 + number / 100)
        results, epochs = trial_of(number, sizes, accuracies)
        cascade = CascadeConfig(macs_kept=sizes, recipe=Recipe(epochs=4))
        networks = {level: f"candidates/{number}-{level}" for level in (1, 2)}
        failed = number == 9
        if not failed:
            folder.archive.add(candidates_of(number, results, networks, cascade))
        header = {"parameters": {"temperature": float(number), "schedule": "joint"}, "cascade": cascade.to_dict()}
        rows = _rows(number, header, epochs, "failed" if failed else "finished", () if failed else results)
        write_table(folder.path / f"curves/{number:05d}.parquet", pa.Table.from_pylist(rows, schema=SCHEMA))
        note_end(folder, failed=failed)
        for level, width in ((1, 20), (2, 4)):
            plan = {"conv1": [width, 3], "norm1": [width, width], "fc": [10, width]}
            path = folder.path / f"candidates/{number}-{level}/architecture.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps({"widths": plan}))
    return folder


def ends_of(folder):
    """What the page says of how trials ended."""
    cells = re.findall(r"<td>(trials that finished|… [^<]*)</td><td>(\d+)</td>", html(gather(folder)))
    return {name: int(number) for name, number in cells}


class Page(HTMLParser):
    """What a page is made of; raises where tags do not close one another."""

    VOID = ("meta", "circle", "line", "br")

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.open, self.said, self.ids, self.outermost = [], [], [], "", [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("href", "src", "xlink:href", "action", "srcset"):
                self.addresses.append(value)
            if name == "id":
                self.ids.append(value)
        if self.open == ["html", "body"]:
            self.outermost.append(tag)
        if tag not in self.VOID or tag == "circle":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.said += data


def test_the_page_says_what_was_found_and_needs_nothing_beside_itself(folder):
    path = write_overview(folder)
    text = path.read_text()
    page = Page(text)
    assert path.name == "overview.html"
    assert len(text) < 5_000_000
    assert "url(" not in text
    assert "@import" not in text
    assert not {"script", "link", "iframe", "img", "object"} & set(page.tags)
    assert all(address.startswith("#network-") for address in page.addresses)
    assert {address[1:] for address in page.addresses} <= set(page.ids)
    for word in ("When in doubt", "cascade export mine --pick knee", "What moved it", "conv1 … norm1", "1 min 30 s"):
        assert word in page.said, word
    assert re.search(r"… failed\s*1", re.sub(r"<[^>]+>", " ", text))
    assert text.count('aria-label="Validation accuracy by epoch of the levels of trial') == 9
    assert 'lang="en"' in text
    assert 'name="viewport"' in text


def test_all_of_the_page_lies_in_landmarks_and_headings_leave_out_no_level(folder):
    page = Page(html(gather(folder)))
    assert page.outermost == ["header", "main", "footer"]
    levels = [int(tag[1]) for tag in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(level <= before + 1 for before, level in itertools.pairwise(levels))


def test_every_command_says_where_the_search_is_unless_that_is_where_commands_look(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my runs").mkdir()
    folder.path.rename(tmp_path / "my runs/mine")
    commands = [
        "confirm mine",
        "report mine",
        "ui",
        "export mine --pick knee",
        "export mine --pick 0:2",
        "export mine --pick TRIAL:LEVEL",
    ]
    for storage in (tmp_path / "my runs", Path("my runs")):
        said = Page(write_overview(SearchFolder(storage=storage, name="mine")).read_text()).said
        for words in commands:
            assert f"cascade {words} --storage '{tmp_path}/my runs'" in said, words
        assert said.count("--storage") == said.count("cascade ") - said.count("cascade ui is open")
    (tmp_path / "my runs").rename("runs")
    said = Page(write_overview(SearchFolder(storage=tmp_path / "runs", name="mine")).read_text()).said
    assert "--storage" not in said


def test_trials_that_failed_at_their_first_step_are_counted_though_they_have_no_curve(folder):
    for _ in range(3):
        note_end(folder, failed=True)
    assert ends_of(folder) == {"trials that finished": 9, "… were stopped early": 0, "… failed": 4}


def test_where_the_study_is_not_at_hand_the_page_counts_those_with_curves_and_says_so(folder):
    known = {"trials that finished": 9, "… were stopped early": 0, "… failed after their first epoch": 1}
    folder.study_file.write_text("no journal\n")
    assert ends_of(folder) == known
    folder.study_file.unlink()
    assert ends_of(folder) == known
    assert not folder.study_file.exists()
    experiment = parse_experiment({"study": {"url": "postgresql://nowhere/studies"}})
    (folder.path / "experiment.yaml").write_text(experiment.to_yaml())
    assert ends_of(folder) == known


@pytest.mark.parametrize(
    ("most", "said"), [(18, None), (17, "Not shown: 1 more network of the front"), (3, "15 more networks")]
)
def test_networks_whose_widths_are_not_shown_are_counted(folder, monkeypatch, most, said):
    monkeypatch.setattr("orchestrator.overview.sections._MOST_COLUMNS", most)
    overview = gather(folder)
    every = overview.view.candidates
    assert len(every) == 18
    view = dataclasses.replace(overview.view, front=every)
    widths = {candidate.label: next(iter(overview.widths.values())) for candidate in every}
    section = widths_section(dataclasses.replace(overview, view=view, widths=widths))
    assert section.count('<th class="width">') == most
    assert said in section if said else "Not shown" not in section


def test_what_has_collapsed_is_marked_on_cards_and_in_the_table(folder):
    (folder.teacher / "result.json").write_text(json.dumps(TEACHER.to_dict() | {"val_guess": 0.7}))
    said = Page(write_overview(folder).read_text()).said
    assert "The smallest by MACs: 0:2 (collapsed)" in said
    assert "The most accurate: 0:1 (collapsed)" not in said
    assert said.count("0:2 (collapsed)") == 2


def test_every_chart_that_a_width_decides_is_there_for_each(folder):
    text = html(gather(folder))
    for css in ("wide", "middle", "narrow"):
        assert text.count(f'class="chart {css}"') == 2


def test_charts_say_what_they_are_of_and_sizes_of_what(folder):
    text = html(gather(folder))
    titles = re.findall(r'<text class="axis" x="2" y="12">([^<]+)</text>', text)
    assert titles == ["validation accuracy"] * 3 + ["hypervolume"] * 3 + ["validation accuracy"] * 9
    assert "level 1, 50.00 % of the MACs<" in text


def test_numbers_of_what_is_left_out_fit_their_words(folder, monkeypatch):
    assert "2 more trials of the front are in the folder" in _with_most_curves(folder, monkeypatch, 7)
    assert "1 more trial of the front is in the folder" in _with_most_curves(folder, monkeypatch, 8)
    assert "in the folder curves" not in _with_most_curves(folder, monkeypatch, 9)
    overview = gather(folder)
    low = [dataclasses.replace(overview.view.front[0], trial=trial, val_accuracy=0.1) for trial in (50, 51)]
    for sunk, words in ((low[:1], "1 more network lies below"), (low, "2 more networks lie below")):
        view = dataclasses.replace(overview.view, candidates=[*overview.view.candidates, *sunk])
        assert f" {words} what is shown." in html(dataclasses.replace(overview, view=view))


def _with_most_curves(folder, monkeypatch, number):
    monkeypatch.setattr("orchestrator.overview.sections._MOST_CURVES", number)
    return Page(html(gather(folder))).said


def test_bars_are_parts_of_all_and_no_option_is_broken(folder):
    overview = gather(folder)
    one = dataclasses.replace(next(iter(overview.importances.values())), shares={"a": 0.77, "b": 0.04})
    text = html(dataclasses.replace(overview, importances={"distance": one}))
    assert re.findall(r'<i style="width:([\d.]+)%">', text) == ["77.0", "4.0"]
    assert "<code>cascade export mine <span>--pick</span> knee" in text


def test_names_lead_to_runs_where_they_are_known(folder):
    links = Links(address="http://host:5000/", experiment_id="3", runs={"trial/0/network/1": "abc"})
    text = html(gather(folder, links))
    assert "find it in the table (MLflow itself, where it shows this page, does not go there)." in text
    assert 'href="http://host:5000/#/experiments/3/runs/abc?workflowType=machine_learning"' in text
    note = folder.path / "tracking/links.json"
    note.parent.mkdir()
    note.write_text(json.dumps({"address": "", "experiment_id": "7", "runs": {"trial/0/network/1": "abc"}}))
    local = html(gather(folder))
    assert 'href="http://127.0.0.1:5000/#/experiments/7/runs/abc?workflowType=machine_learning"' in local
    assert "while <code>cascade ui</code> is open on its usual port, 5000;" in local
    note.write_text("{")
    assert "/experiments/" not in html(gather(folder))
    assert "MLflow itself" not in html(gather(folder))


def test_charts_with_links_are_no_single_image(folder):
    charts = re.findall(r'<svg class="chart [^>]*role="(\w+)"[^>]*>(.*?)</svg>', html(gather(folder)))
    assert {(role, "<a " in inside) for role, inside in charts} == {("group", True), ("img", False)}


def test_words_of_the_users_own_cannot_become_markup(folder):
    overview = gather(folder)
    layer = dataclasses.replace(next(iter(overview.widths.values()))[0], layer="<script>alert(1)</script>")
    hostile = dataclasses.replace(
        overview,
        name='<img src=x onerror="alert(1)">',
        widths={label: (layer,) for label in overview.widths},
        importances={"<b>": dataclasses.replace(next(iter(overview.importances.values())), shares={"<i>x": 1.0})},
    )
    page = Page(html(hostile))
    assert not {"script", "img"} & set(page.tags)
    assert "<script>alert(1)</script>" in page.said


def test_a_teacher_far_below_its_networks_is_told_and_not_drawn_outside(folder):
    overview = gather(folder)
    weak = dataclasses.replace(overview, teacher=dataclasses.replace(TEACHER, val_accuracy=0.2), curves=())
    text = html(weak)
    assert "The teacher lies below what is shown, at 20.00 %." in text
    assert "teacher, 20.00 %" not in text
    assert "teacher, 95.00 %" in html(overview)


@pytest.mark.parametrize("accuracy", [0.1, 0.5, 0.95])
def test_the_teachers_line_lies_within_the_charts_of_curves(folder, accuracy):
    overview = gather(folder)  # of curves from 0.2 to 0.8
    page = html(dataclasses.replace(overview, teacher=dataclasses.replace(TEACHER, val_accuracy=accuracy)))
    curves = re.findall(r'viewBox="0 0 360 200".*?</svg>', page)
    heights = [float(re.search(r'<line class="teacher"[^>]* y1="([\d.]+)"', curve)[1]) for curve in curves]
    assert heights
    assert all(26 <= height <= 160 for height in heights), "beneath the upper edge and above the axis"


def test_hypervolume_grows_and_ends_at_the_fronts(folder):
    from orchestrator.front.pareto import front_hypervolume

    overview = gather(folder)
    values = list(overview.hypervolumes.values())
    assert values == sorted(values)
    assert values[-1] == pytest.approx(front_hypervolume(overview.view.front, overview.view.objectives))


def test_results_away_from_where_their_curves_end_are_explained(folder):
    overview = gather(folder)  # of joint trials, whose curves end at 0.8
    assert "Some results lie away from where their curves end" in html(overview)
    curves = tuple(
        dataclasses.replace(curve, results=tuple(dataclasses.replace(one, val_accuracy=0.805) for one in curve.results))
        for curve in overview.curves
    )
    assert "measured anew" not in html(dataclasses.replace(overview, curves=curves))


def test_what_a_search_took_is_never_cut_off(folder):
    overview = gather(folder)
    text = html(dataclasses.replace(overview, teacher=dataclasses.replace(TEACHER, reused=True)))
    assert "1 min 30 s, taken over from another search" in text
    assert '<div class="scroll facts"><table>' in text
    assert ".facts td { white-space: normal; }" in text
    assert not re.search(r'style="[^"]*max-width:\d', text)


def test_a_search_with_little_to_show_has_a_page_all_the_same(tmp_path):
    folder = SearchFolder(storage=tmp_path, name="young")
    with pytest.raises(InputError, match="there is no search 'young'"):
        write_overview(folder)
    folder.begin(Experiment(constraints={"params": {"at_most": 1}}))
    with pytest.raises(InputError, match="no trial of search 'young' has given a network yet"):
        write_overview(folder)
    folder.teacher.mkdir()
    (folder.teacher / "result.json").write_text(json.dumps(TEACHER.to_dict()))
    results, _ = trial_of(0, (0.1,), (0.9,))
    folder.archive.add(candidates_of(0, results, {1: "candidates/0-1"}, CascadeConfig(macs_kept=(0.1,))))
    text = write_overview(folder).read_text()
    said = Page(text).said
    assert "1 trial gave 1 network, none of which is on the front." in said
    assert "No candidate of 1 trial meets params at most 1 (the nearest has 100); so the front is empty." in said
    for word in ("in the table", "cheaper", "How the front grew"):
        assert word not in said, word
    assert 'circle class="ring"' not in text


def test_a_third_objective_is_told_with_what_was_measured(folder):
    overview = gather(folder)
    measured = {how: dataclasses.replace(candidate, latency_ms=0.1234) for how, candidate in overview.picks.items()}
    view = dataclasses.replace(overview.view, objectives=("val_accuracy", "macs_kept", "latency_ms"))
    said = Page(html(dataclasses.replace(overview, view=view, picks=measured))).said
    assert "on the front, with latency_ms as a further objective: no other is better in all of these." in said
    assert said.count(" fewer parameters, 0.123 ms an image.") == 3
    said = Page(html(overview)).said
    assert "on the front: no other is both more accurate and cheaper." in said
    assert " ms an image" not in said


def test_what_moves_a_result_comes_first_and_the_same_each_time():
    parameters = [
        {"size": index % 7, "noise": (index * 37) % 11, "word": "ab"[index % 2], "same": 1}
        | ({"gap": 1.0} if index % 3 else {})
        for index in range(40)
    ]
    results = [float(one["size"]) for one in parameters]
    found = importance(parameters, results)
    assert next(iter(found.shares)) == "size"
    assert found.shares["size"] > 0.9
    assert found.explained > 0.9
    assert "same" not in found.shares
    assert sum(found.shares.values()) == pytest.approx(1)
    assert importance(parameters, results) == found


def test_of_very_many_trials_a_part_tells_what_moves_a_result_and_the_page_says_so(folder, monkeypatch):
    monkeypatch.setattr("orchestrator.overview.importance._MOST_TRIALS", 60)
    draws = random.Random(0)
    parameters = [{"size": draws.random(), "other": draws.random()} for _ in range(200)]
    found = importance(parameters, [one["size"] + 0.1 * one["other"] for one in parameters])
    assert (found.num_trials, found.num_known) == (60, 200)
    assert found.shares["size"] > 0.9
    page = html(dataclasses.replace(gather(folder), importances={"it": found}))
    assert "60 trials, drawn at random out of 200." in page
    assert "drawn at random" not in html(gather(folder))


@pytest.mark.parametrize(
    ("parameters", "results"),
    [([{"a": 1.0}] * 20, [1.0] * 20), ([{"a": float(i)} for i in range(5)], [1.0, 2.0, 3.0, 4.0, 5.0]), ([], [])],
)
def test_nothing_is_said_where_nothing_differs_or_trials_are_few(parameters, results):
    assert importance(parameters, results) is None


def test_ticks_are_round_and_within():
    assert list(percent_ticks(0.913, 1.0).values()) == ["92 %", "94 %", "96 %", "98 %", "100 %"]
    assert percent_ticks(0.5, 0.5)
    assert list(count_ticks(15)) == [0, 3, 6, 9, 12, 15]
    frame = Frame(width=400, height=300, x_range=(1, 1), y_range=(0, 0), x_ticks={}, y_ticks={})
    assert frame.x(1) >= frame.left
    assert frame.y(0) <= 300


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.99209, 0.99224, ["0.99210", "0.99215", "0.99220"]),
        (0.9985, 0.9993, ["0.9986", "0.9988", "0.9990", "0.9992"]),
        (0.0, 0.01, ["0.0000", "0.0025", "0.0050", "0.0075", "0.0100"]),
        (0.0, 1.0, ["0.00", "0.25", "0.50", "0.75", "1.00"]),
    ],
)
def test_labels_of_ticks_are_as_fine_as_their_step(low, high, labels):
    assert list(value_ticks(low, high, 4).values()) == labels


def test_labels_in_percent_are_as_fine_as_their_step_and_have_room():
    ticks = percent_ticks(0.9985, 1.0)
    assert list(ticks.values())[:3] == ["99.850 %", "99.875 %", "99.900 %"]
    frame = Frame(width=400, height=300, x_range=(0, 1), y_range=(0, 1), x_ticks={}, y_ticks=ticks)
    assert frame.left >= 7 * len("99.875 %")


def test_how_a_front_grew_is_drawn_between_nothing_and_all(folder):
    overview = gather(folder)
    for volume in (0.0, 1.0):
        text = html(dataclasses.replace(overview, hypervolumes=dict.fromkeys(range(9), volume)))
        chart = re.search(r'aria-label="Hypervolume.*?</svg>', text)[0]
        labels = [float(label) for label in re.findall(r'text-anchor="end"[^>]*>([^<]*)<', chart)]
        assert labels
        assert all(0 <= label <= 1 for label in labels)


def test_a_line_of_a_single_value_is_a_point():
    frame = Frame(width=400, height=300, x_range=(1, 3), y_range=(0, 1), x_ticks={}, y_ticks={})
    series = [Line(points=[(2, 0.5)], name="level 1", kind="c1"), Line(points=[(1, 0), (3, 1)], name="2", kind="c2")]
    point, line = re.findall(r"<(circle|polyline) class=\"([^\"]+)\"", lines(frame, series))
    assert (point, line) == (("circle", "alone c1"), ("polyline", "line c2"))
    assert f'cx="{frame.x(2)}" cy="{frame.y(0.5)}" r="3"><title>level 1</title>' in lines(frame, series)


TEXT = re.compile(r'<text class="(\w+)" text-anchor="end" x="([\d.]+)" y="([\d.]+)">([^<]+)</text>')


@pytest.mark.parametrize("width", [376, 1240])
@pytest.mark.parametrize("x", [0.1, 0.5, 0.9])
def test_no_label_covers_the_teachers(width, x):
    frame = Frame(width=width, height=340, x_range=(0, 1), y_range=(0.9, 1), x_ticks={}, y_ticks={})
    points = [Point(x=x, y=0.989, title="best", kind="knee", label="1:1"), Point(x=0.02, y=0.93, title="", label="0:3")]
    texts = TEXT.findall(scatter(frame, points, joined=True, teacher=(0.99, "teacher, 99.00 %")))
    assert [words for *_, words in texts][:2] == ["teacher, 99.00 %", "1:1"], "there is room for both"
    _, right, baseline, words = texts[0]
    end, y = float(right), float(baseline)
    assert not end - 7 * len(words) <= frame.x(x) <= end or abs(y - frame.y(0.989)) > 6, "it hides no point"
    for _, other_right, other_baseline, label in texts[1:]:
        apart = abs(y - float(other_baseline)) > 13
        assert apart or float(other_right) < end - 7 * len(words) or end < float(other_right) - 7 * len(label)


def test_labels_give_way_where_points_lie_all_about_the_teachers_line():
    frame = Frame(width=376, height=340, x_range=(0, 1), y_range=(0.9, 1), x_ticks={}, y_ticks={})
    rows = [(at / 10, y) for at in range(1, 10) for y in (0.989, 0.981)]
    points = [Point(x=x, y=y, title="", kind="front", label=f"{number}:1") for number, (x, y) in enumerate(rows)]
    texts = TEXT.findall(scatter(frame, points, joined=True, teacher=(0.99, "teacher, 99.00 %")))
    assert texts[0][0] == "note"
    assert 1 < len(texts) < 1 + len(points)
