"""Samplers by name: what suggests the next trial, each from an explicit seed.

Every one of them takes conditional spaces and several objectives. Optuna is imported when one is made, so that names
can be checked without it.
"""

import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from trainables.errors import InputError

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

# Optuna's own 50 would leave most searches without a second generation.
_POPULATION = 20


def _tpe(seed: int, num_started: int) -> "BaseSampler":
    from optuna.samplers import TPESampler

    from orchestrator.policies.history import BoundedHistory

    return BoundedHistory(TPESampler(seed=_reseeded(seed, num_started)))


def _tpe_multivariate(seed: int, num_started: int) -> "BaseSampler":
    from optuna.samplers import TPESampler

    from orchestrator.policies.history import BoundedHistory

    return BoundedHistory(
        TPESampler(seed=_reseeded(seed, num_started), multivariate=True, group=True, constant_liar=True)
    )


def _gp(seed: int, num_started: int) -> "BaseSampler":
    from optuna.samplers import GPSampler

    # What only some cascades have is drawn at random, which need not be said of every trial.
    return GPSampler(seed=_reseeded(seed, num_started), deterministic_objective=False, warn_independent_sampling=False)


def _nsga2(seed: int, num_started: int) -> "BaseSampler":
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(seed=_reseeded(seed, num_started), population_size=_POPULATION)


def _nsga3(seed: int, num_started: int) -> "BaseSampler":
    from optuna.samplers import NSGAIIISampler

    return NSGAIIISampler(seed=_reseeded(seed, num_started), population_size=_POPULATION)


def _quasi_random(seed: int, num_started: int) -> "BaseSampler":
    from optuna.samplers import QMCSampler, RandomSampler

    return QMCSampler(
        # One sequence over all starts: the study keeps the place in it, and another seed would be another sequence.
        seed=seed,
        scramble=True,
        independent_sampler=RandomSampler(seed=_reseeded(seed, num_started)),
        warn_independent_sampling=False,
    )


def _random(seed: int, num_started: int) -> "BaseSampler":
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=_reseeded(seed, num_started))


def _reseeded(seed: int, num_started: int) -> int:
    return (seed + num_started) % 2**32


SAMPLERS: Mapping[str, Callable[[int, int], "BaseSampler"]] = MappingProxyType(
    {
        "tpe": _tpe,
        "tpe-multivariate": _tpe_multivariate,
        "gp": _gp,
        "nsga2": _nsga2,
        "nsga3": _nsga3,
        "quasi-random": _quasi_random,
        "random": _random,
    }
)
DEFAULT_SAMPLER = "tpe"
UNTAUGHT = ("nsga2", "nsga3", "quasi-random", "random")
"""Samplers that learn nothing from trials of earlier studies: their own trials alone, or none."""


def check_sampler(name: str) -> str:
    """Give the name back if there is such a sampler.

    Raises:
        InputError: naming those that there are.
    """
    if name not in SAMPLERS:
        raise InputError(f"{name!r} is no sampler; there are {', '.join(SAMPLERS)}")
    return name


def make_sampler(name: str, *, seed: int, num_started: int) -> "BaseSampler":
    """A sampler for one start of a search.

    Args:
        name: out of `SAMPLERS`.
        seed: the search's, at least 0.
        num_started: trials that the study holds already; it goes into the seed, or a search that goes on would suggest
            its first trials again.

    Raises:
        InputError: if there is no such sampler.
    """
    check_sampler(name)
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        # Three of them are marked so; constraints.txt pins the version that was tried.
        warnings.simplefilter("ignore", ExperimentalWarning)
        return SAMPLERS[name](seed, num_started)
