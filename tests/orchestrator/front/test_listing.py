"""A front in words: its table and its JSON."""

import dataclasses
import json

from orchestrator.front.listing import front_json, front_table
from tests.orchestrator.front.fronts import POPULATION, view


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
