import base64
import json
import zlib

import pytest

from orchestrator.tracking.views import VIEWS, varied, views


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_views_are_packed_as_mlflow_reads_them(view):
    name, value = view.tag
    assert name == f"mlflow.sharedViewState.{view.key}"
    content = json.loads(value)
    assert content["name"] == view.name
    head, packed = content["state"].split(";")
    assert head == "deflate"
    state = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert state == view.state
    assert len(value) < 5000, "MLflow refuses longer tags"
    assert view.tag == (name, value), "the same each time, or the tag would be written at each start"
    assert f"/experiments/7/runs?workflowType=machine_learning&viewStateShareKey={view.key}" in view.place("7")


def test_the_first_view_is_of_the_front():
    state = VIEWS["front"].state
    assert state["searchFilter"] == "tags.front = 'true' and tags.cascade.kind = 'network'"
    assert state["orderByKey"] == "metrics.`val_accuracy`"
    assert "tags.`export`" in state["selectedColumns"]


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_views_say_of_which_search_a_run_is(view):
    assert "tags.`search`" in view.state["selectedColumns"]


def test_only_parameters_that_every_network_has_are_on_the_chart():
    runs = [
        {
            "level": "1",
            "temperature": "4",
            "schedule": "joint",
            "level_1_macs_kept_asked": "0.5",
            "num_assistants": "1",
        },
        {
            "level": "2",
            "temperature": "2",
            "schedule": "joint",
            "level_1_macs_kept_asked": "0.4",
            "num_assistants": "1",
        },
        {"level": "1", "temperature": "3", "schedule": "joint", "own": "1", "num_assistants": "0"},
    ]
    assert varied(runs) == ("num_assistants", "temperature")
    assert varied([run | {"learning_rate": str(index), "own": "x"} for index, run in enumerate(runs)])[2:] == (
        "learning_rate",
    )
    assert varied(runs[:1]) == ("num_assistants", "schedule", "temperature"), "all of them where nothing differs yet"
    assert varied([]) == ("num_assistants",)
    for view in views(varied(runs)).values():
        (chart,) = (one for one in view.state["compareRunCharts"] if one["type"] == "PARALLEL")
        assert chart["selectedParams"] == ["num_assistants", "temperature"]


def test_the_table_of_trials_has_the_parameters_that_differ():
    state = views(("schedule", "temperature", "num_assistants"))["trials"].state
    assert [column for column in state["selectedColumns"] if column.startswith("params.")] == [
        "params.`num_assistants`",
        "params.`schedule`",
        "params.`temperature`",
    ]


def test_names_of_the_users_own_do_not_burst_the_tag():
    runs = [{f"{index}{'long' * (index % 20)}": str(run) for index in range(90)} for run in range(2)]
    shown = varied(runs)
    assert len(shown) == 8
    assert all(len(view.tag[1]) < 5000 for view in views(shown).values())
