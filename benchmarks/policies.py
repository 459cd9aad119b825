"""The default search policy against random search, plain Ray Tune with Optuna, and Syne Tune's MOASHA.

All are replayed on the same recorded curves of real cascades. MOASHA takes part where `syne_tune` can be imported.
"""

import argparse
import importlib.util
import random
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
from optuna.samplers import RandomSampler
from optuna.trial import FixedTrial, Trial
from ray.tune.search.optuna import OptunaSearch

from benchmarks.table import Row, machine, table
from orchestrator.front.pareto import OBJECTIVES
from orchestrator.replay.comparison import Comparison, compare
from orchestrator.replay.recorded import Point, Recorded
from orchestrator.replay.simulate import Replay, Searcher, Simulation, replay
from orchestrator.replay.yardstick import Yardstick
from orchestrator.searches.asked import Asked
from orchestrator.simulations import read_recorded
from trainables.config import CascadeConfig

CURVES = Path(__file__).parent / "data/digits_curves.parquet"
DEFAULT = "tpe+start:6"
RANDOM = "random"
PLAIN = "plain Ray Tune + Optuna"
UNTIL = 0.95
NUM_SEEDS = 10
NUM_TRIALS = 60
GRACE_PERIODS = (1, 4)  # epochs; the better of the two is what the default is held against


class PlainOptuna:
    """Ray Tune's own `OptunaSearch`, several objectives, no early stopping: told of a trial when it has ended."""

    def __init__(self, simulation: Simulation, seed: int) -> None:
        """Begin a search."""
        objectives = simulation.recorded.objectives
        self._simulation = simulation
        self._objectives = objectives
        self._num_asked = 0
        self._optuna = OptunaSearch(
            self._define, metric=list(objectives), mode=[OBJECTIVES[name][:3] for name in objectives], seed=seed
        )

    def _define(self, trial: optuna.Trial) -> None:
        self._simulation.space(trial, self._simulation.defaults)

    def ask(self) -> Asked:
        """The next trial."""
        number, self._num_asked = self._num_asked, self._num_asked + 1
        values = self._optuna.suggest(str(number))
        assert values is not None
        return Asked(
            number=number, cascade=self._simulation.space(cast(Trial, FixedTrial(values)), self._simulation.defaults)
        )

    def report(self, number: int, fraction: float, points: Sequence[Point]) -> bool:
        """Every trial runs to its end."""
        return True

    def finished(self, number: int, result: Point) -> None:
        """A trial came to its end."""
        self._optuna.on_trial_complete(str(number), dict(result))

    def stopped(self, number: int) -> None:
        """No trial is stopped."""
        raise AssertionError(number)

    def failed(self, number: int) -> None:
        """A trial failed."""
        self._optuna.on_trial_complete(str(number), None, error=True)


class RandomCascades:
    """What MOASHA draws from: the space, sampled at random."""

    def __init__(self, simulation: Simulation, seed: int) -> None:
        """Seed it."""
        self._simulation = simulation
        self._study = optuna.create_study(sampler=RandomSampler(seed=seed))

    def sample(self) -> CascadeConfig:
        """Draw a cascade."""
        return self._simulation.space(self._study.ask(), self._simulation.defaults)


class SyneTuneMoasha:
    """Syne Tune's MOASHA over random cascades, told of the student after each epoch, as its own tuner does."""

    def __init__(self, simulation: Simulation, seed: int, *, grace_period: int) -> None:
        """Begin a search; its rungs lie at `grace_period` epochs and at three times as many, and so on."""
        from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

        self._objectives = simulation.recorded.objectives
        self._num_epochs = simulation.defaults.recipe.epochs
        # It draws from the global generators.
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        self._moasha = MOASHA(
            {"cascade": RandomCascades(simulation, seed)},
            metrics=list(self._objectives),
            time_attr="epoch",
            max_t=self._num_epochs,
            grace_period=grace_period,
            random_seed=seed,
        )
        self._trials: list[Any] = []

    def ask(self) -> Asked:
        """The next trial."""
        from syne_tune.backend.trial_status import Trial

        number, config = len(self._trials), self._moasha.suggest().config
        self._trials.append(Trial(trial_id=number, config=config, creation_time=datetime.fromtimestamp(0.0)))  # noqa: DTZ006
        self._moasha.on_trial_add(self._trials[number])
        return Asked(number=number, cascade=config["cascade"])

    def _result(self, fraction: float, student: Point) -> dict[str, float]:
        signs = {name: -1.0 if OBJECTIVES[name] == "maximize" else 1.0 for name in self._objectives}
        return {name: sign * student[name] for name, sign in signs.items()} | {
            "epoch": round(fraction * self._num_epochs)
        }

    def report(self, number: int, fraction: float, points: Sequence[Point]) -> bool:
        """Whether a trial goes on."""
        return bool(self._moasha.on_trial_result(self._trials[number], self._result(fraction, points[-1])) != "STOP")

    def finished(self, number: int, result: Point) -> None:
        """A trial came to its end."""
        self._moasha.on_trial_complete(self._trials[number], self._result(1.0, result))

    def stopped(self, number: int) -> None:
        """A trial was stopped."""
        self._moasha.on_trial_remove(self._trials[number])

    def failed(self, number: int) -> None:
        """A trial failed."""
        self._moasha.on_trial_remove(self._trials[number])


def _replays(simulation: Simulation, make: Callable[[int], Searcher]) -> list[Replay]:
    return [
        replay(
            make(seed),
            simulation.recorded,
            num_workers=simulation.num_workers,
            budget=simulation.budget,
            seed=seed,
        )
        for seed in range(NUM_SEEDS)
    ]


def _note(found: Comparison) -> str:
    work = f"{found.work.mean:.0f} ({found.work.low:.0f} … {found.work.high:.0f}) epochs of the other's"
    return f"{work}; {found.num_stopped:.0f} of {found.num_trials:.0f} trials stopped; {found.num_short} fell short"


def _compared(replays: dict[str, list[Replay]], yardstick: Yardstick, *, name: str, target: float) -> Row:
    """The default's work against another policy's, each mean over seeds; what fell short counts with its budget."""
    other, own = compare({name: replays[name], DEFAULT: replays[DEFAULT]}, yardstick, until=UNTIL)
    return Row(
        name=f"policies: epochs to {UNTIL:.0%} of the best hypervolume, against {name}",
        figure=own.ratio.mean,
        rule="at most",
        target=target,
        note=f"{own.ratio.low:.2f} … {own.ratio.high:.2f}; {own.work.mean:.0f} epochs against {_note(other)}",
    )


def run() -> list[Row]:
    """Measure it."""
    experiment, curves = read_recorded(str(CURVES), storage=CURVES.parent)
    recorded = Recorded(curves, objectives=experiment.objectives)
    simulation = Simulation(
        space=experiment.find_space(),
        defaults=experiment.cascade,
        recorded=recorded,
        num_workers=4,
        budget=NUM_TRIALS * recorded.work_per_trial,
    )
    replays = simulation.run_all((RANDOM, DEFAULT), num_seeds=NUM_SEEDS, num_processes=1)
    replays[PLAIN] = _replays(simulation, lambda seed: PlainOptuna(simulation, seed))
    targets = {RANDOM: 1 / 5, PLAIN: 1 / 2}
    if importlib.util.find_spec("syne_tune") is None:
        print("policies: Syne Tune is not installed and is left out; pip install syne-tune", file=sys.stderr)
    else:
        for grace in GRACE_PERIODS:
            name = f"Syne Tune's MOASHA, first rung at {grace}"
            replays[name] = _replays(simulation, partial(SyneTuneMoasha, simulation, grace_period=grace))
            targets[name] = 1 / 2
    yardstick = Yardstick(recorded)
    return [_compared(replays, yardstick, name=name, target=target) for name, target in targets.items()]


def main() -> None:
    """Print it."""
    argparse.ArgumentParser(prog="python -m benchmarks.policies", description=__doc__).parse_args()
    print(machine())
    print(table(run()))


if __name__ == "__main__":
    main()
