"""Real searches on the digits, each with the same trials to spend: the default policy, random, and plain TPE.

The policies of `benchmarks.policies` once more, but nothing is looked up: every cascade is trained.
"""

import sys
import tempfile
from pathlib import Path

import yaml

from benchmarks.demo import cascade
from benchmarks.record_curves import plain_values
from benchmarks.table import Row
from orchestrator.replay.recorded import Recorded
from orchestrator.replay.yardstick import Yardstick
from orchestrator.searches.curves import TrialCurve, read_curves
from orchestrator.searches.folder import SearchFolder
from orchestrator.searches.layout import CURVES

NUM_TRIALS = 30
UNTIL = 0.95
OBJECTIVES = ("val_accuracy", "macs_kept")
DEFAULT = "the default"
POLICIES = {
    DEFAULT: {"sampler": "tpe", "num_starting_points": 6},
    "random": {"sampler": "random", "num_starting_points": 0},
    "TPE with no hand-laid start": {"sampler": "tpe", "num_starting_points": 0},
}
TARGETS = {"random": 1 / 5, "TPE with no hand-laid start": 1 / 2}


def _search(name: str, settings: dict[str, object], storage: Path) -> tuple[TrialCurve, ...]:
    """The curves of one search, whose trials ran one after the other in the order of their numbers."""
    file = storage / f"{name}.yaml"
    file.write_text(yaml.safe_dump(plain_values(NUM_TRIALS) | settings | {"resources": {"max_concurrent": 1}}))
    _, seconds = cascade("search", str(file), "--storage", str(storage), "--name", name)
    print(f"real_search: {name} in {seconds:.0f} s", file=sys.stderr, flush=True)
    return read_curves(SearchFolder(storage=storage, name=name).path / CURVES)


def _epochs_until(curves: tuple[TrialCurve, ...], yardstick: Yardstick) -> tuple[float, float]:
    """Epochs until the search had reached its part of the best hypervolume (all, if it did not), and where it ended."""
    trials = Recorded(curves, objectives=OBJECTIVES).trials
    shares = list(yardstick.shares(trial.results for trial in trials))
    epochs, reached = 0, None
    for trial, share in zip(trials, shares, strict=True):
        epochs += len(trial.epochs)
        if reached is None and share >= UNTIL:
            reached = epochs
    return reached or epochs, shares[-1]


def run() -> list[Row]:
    """Measure it."""
    with tempfile.TemporaryDirectory() as folder:
        found = {
            policy: _search(f"policy-{index}", settings, Path(folder))
            for index, (policy, settings) in enumerate(POLICIES.items())
        }
    together = [curve for curves in found.values() for curve in curves]
    yardstick = Yardstick(Recorded(together, objectives=OBJECTIVES))
    ends = {policy: _epochs_until(curves, yardstick) for policy, curves in found.items()}
    own, own_share = ends[DEFAULT]
    return [
        Row(
            name=f"real_search: epochs to {UNTIL:.0%} of the best hypervolume, against {policy}",
            figure=own / ends[policy][0],
            rule="at most",
            target=target,
            note=f"{own:.0f} against {ends[policy][0]:.0f} epochs; in the end {own_share:.1%} and "
            f"{ends[policy][1]:.1%} of the best of all three searches, {NUM_TRIALS} trials each, one seed",
        )
        for policy, target in TARGETS.items()
    ]
