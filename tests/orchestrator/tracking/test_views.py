import base64
import json
import zlib

import pytest

from orchestrator.tracking.views import VIEWS


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
