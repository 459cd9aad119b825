import json
import os
import subprocess
import sys

import pytest

from orchestrator.cli import main
from orchestrator.curves import CurvePoint, TrialCurve
from trainables.config import CascadeConfig, Recipe
from trainables.results import LevelResult


@pytest.fixture
def cascade(monkeypatch, capsys, tmp_path):
    """Run the command in this process, in an empty folder; exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["cascade", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


@pytest.fixture
def told_by(tmp_path):
    """Run a script in a process of its own, in an empty folder; what the JSON of its last line says."""

    def run(script, *words, timeout):
        done = subprocess.run(
            [sys.executable, "-c", script, *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="session")
def make_curve():
    """The curve of a trial of which only what matters is said."""

    def make(trial=0, sizes=(0.5, 0.1), accuracies=(0.9, 0.8), end="finished", **cascade):
        """A joint trial of four epochs: levels at their sizes from the third on, then a tenth below the end."""
        config = CascadeConfig(
            macs_kept=sizes, recipe=Recipe(epochs=4, learning_rate=cascade.pop("rate", 0.1)), **cascade
        )
        points = tuple(
            CurvePoint(
                level=level,
                stage="cascade",
                epoch=epoch,
                trial_epoch=epoch,
                macs_kept=size if epoch > 2 else 1.0,
                val_accuracy=accuracy - 0.1,
                train_loss=1.0,
                seconds=1.0,
            )
            for epoch in range(1, 5)
            for level, (size, accuracy) in enumerate(zip(sizes, accuracies, strict=True), start=1)
        )
        results = tuple(
            LevelResult(
                level=level,
                num_levels=len(sizes),
                val_accuracy=accuracy,
                val_accuracy_before_recalibration=accuracy,
                macs=1,
                macs_kept=size,
                params=1,
                params_kept=size,
            )
            for level, (size, accuracy) in enumerate(zip(sizes, accuracies, strict=True), start=1)
        )
        if end == "failed":
            points, results = points[:4], ()
        return TrialCurve(trial=trial, end=end, parameters={}, cascade=config, points=points, results=results)

    return make
