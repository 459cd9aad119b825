"""Results of a study in their file: read whole, or told."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.evidence.processes import told
from orchestrator.evidence.results import Found, ResultFile, RunResult
from trainables.errors import InputError

FOUND = Found(
    level=1,
    num_levels=1,
    macs_kept=0.1,
    params_kept=0.2,
    macs=100,
    params=20,
    val_accuracy=0.95,
    test_accuracy=0.9,
)
RESULT = RunResult(
    key="a",
    arm="plain",
    size=0.1,
    seed=1,
    learning_rate=0.05,
    purpose="measured",
    found=(FOUND,),
    epochs=5,
    work=10.0,
    seconds=2.0,
    device="cpu",
    versions={"torch": "1"},
    config={},
)


def test_what_was_added_is_read(tmp_path: Path) -> None:
    file = ResultFile(tmp_path / "results.jsonl")
    file.add(RESULT)
    assert file.read() == {"a": RESULT}


def test_a_line_says_which_accuracy_it_tells() -> None:
    run = "plain, size 0.1, seed 1, rate 0.05: 10.00 % of the MACs:"
    spent = "5 epochs, 10.0 teacher-passes, 2 s"
    assert told(RESULT) == f"measured {run} test accuracy 90.00 %; {spent}"
    assert told(replace(RESULT, purpose="tuning")) == f"tuning {run} validation accuracy 95.00 %; {spent}"


@pytest.mark.parametrize(
    "change",
    [
        *(
            {name: value}
            for name in ("val_accuracy", "test_accuracy", "macs_kept")
            for value in ("abc", 7.5, -0.1, None)
        ),
        {"test_accuracy": float("nan")},
        {"macs": 1.5},
        {"level": True},
    ],
)
def test_a_network_that_cannot_be_is_a_damaged_line(tmp_path: Path, change: dict[str, Any]) -> None:
    refuse(tmp_path, {"found": [FOUND.to_dict() | change]})


@pytest.mark.parametrize(
    "change",
    [
        {"size": "small"},
        {"seed": 1.5},
        {"learning_rate": 0},
        {"purpose": "fun"},
        {"epochs": -1},
        {"seconds": "2"},
        {"versions": "1"},
        {"failure": 1},
        {"found": 1},
        {"key": None},
    ],
)
def test_a_run_that_cannot_be_is_a_damaged_line(tmp_path: Path, change: dict[str, Any]) -> None:
    refuse(tmp_path, change)


def refuse(folder: Path, change: dict[str, Any]) -> None:
    path = folder / "results.jsonl"
    lines = [json.dumps(RESULT.to_dict() | {"key": "b"}), json.dumps(RESULT.to_dict() | change)]
    path.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(InputError, match=r"line 2 of .*results.jsonl is damaged; remove that line to run it again"):
        ResultFile(path).read()
