"""Which parameters moved the results: how much worse a forest predicts them when one is shuffled."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FEWEST_TRIALS = 8
"""With fewer trials nothing is said."""
_MOST_TRIALS = 1_000  # beyond, importances hardly move any more, and the forest takes its time
_TREES, _SHUFFLES, _SEED = 100, 5, 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Importance:
    """What moved one result.

    Attributes:
        shares: parameter → its part of what the forest loses when parameters are shuffled, in [0, 1], the largest
            first; they sum to 1, or all are 0 where the forest knows nothing.
        explained: R² of the forest on trials that a tree had not seen, at most 1; at 0 and below it knows nothing.
        num_trials: that it was grown on.
        num_known: that there were, out of which those were drawn.
    """

    shares: dict[str, float]
    explained: float
    num_trials: int
    num_known: int


def importance(parameters: Sequence[Mapping[str, Any]], results: Sequence[float]) -> Importance | None:
    """What moved a result, by permutation (Breiman 2001, "Random forests", section 10).

    A parameter that only some trials have counts as one of its own where it is missing. Of more than 1,000 trials as
    many are drawn at random. Always the same for the same trials.

    Args:
        parameters: of each trial.
        results: of each trial, as many.

    Returns:
        The importance of each parameter that differs between trials, or `None` with fewer than 8 trials, or where
        nothing differs.
    """
    num_known = len(results)
    if num_known > _MOST_TRIALS:
        drawn = sorted(random.Random(_SEED).sample(range(num_known), _MOST_TRIALS))
        parameters, results = [parameters[place] for place in drawn], [results[place] for place in drawn]
    names = sorted({name for one in parameters for name in one})
    columns = {name: _column([one.get(name) for one in parameters]) for name in names}
    columns = {name: column for name, column in columns.items() if len(set(column)) > 1}
    if len(results) < FEWEST_TRIALS or not columns or len(set(results)) == 1:
        return None
    import numpy as np
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    inputs = np.array(list(columns.values())).T
    forest = RandomForestRegressor(n_estimators=_TREES, oob_score=True, random_state=_SEED)
    forest.fit(inputs, np.array(results))
    lost = permutation_importance(forest, inputs, np.array(results), n_repeats=_SHUFFLES, random_state=_SEED)
    gains = {name: max(0.0, float(gain)) for name, gain in zip(columns, lost.importances_mean, strict=True)}
    total = sum(gains.values()) or 1.0
    shares = {name: gain / total for name, gain in sorted(gains.items(), key=lambda item: (-item[1], item[0]))}
    return Importance(shares=shares, explained=float(forest.oob_score_), num_trials=len(results), num_known=num_known)


def _column(values: Sequence[Any]) -> list[float]:
    """A parameter as numbers: words by their order in the alphabet, what is missing below everything."""
    if all(value is None or isinstance(value, bool | int | float) for value in values):
        there = [float(value) for value in values if value is not None]
        missing = min(there, default=0.0) - 1.0
        return [missing if value is None else float(value) for value in values]
    words = sorted({str(value) for value in values if value is not None})
    return [-1.0 if value is None else float(words.index(str(value))) for value in values]
