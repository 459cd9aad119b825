"""What a space suggests, seen by drawing from it beside any study, and whether given parameters fit it."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from orchestrator.policies.looks import Look, admit
from search_spaces.cascade import CascadeDefaults, Space
from trainables.config import CascadeConfig
from trainables.errors import InputError, did_you_mean, first_line

# Enough to meet every branch of a conditional space that is worth searching.
_DRAWS = 100
# What constraints leave of a space may be small.
_MOST_DRAWS = 500


class SpaceProbe:
    """A space after a number of draws at random.

    Attributes:
        distributions: of each parameter that was suggested, all that were met; more than one where a range depends on
            another parameter.
        cascades: those that were drawn and are worth a trial; at least one.
    """

    def __init__(self, space: Space, defaults: CascadeDefaults, look: Look = admit) -> None:
        """Draw.

        Args:
            space: to draw from.
            defaults: what it builds on.
            look: refuses cascades that are not worth a trial.

        Raises:
            InputError: if the space fails, or no draw gives a valid cascade.
        """
        self._space = space
        self._defaults = defaults
        self._look = look
        self.distributions: dict[str, tuple[BaseDistribution, ...]] = {}
        valid: list[CascadeConfig] = []
        last = None
        for draw, (trial, cascade, reason) in enumerate(self._draws({})):
            if draw >= _DRAWS and valid:
                break
            last = reason
            if cascade is not None and reason is None:
                valid.append(cascade)
            for name, distribution in trial.distributions.items():
                met = self.distributions.get(name, ())
                self.distributions[name] = met if distribution in met else (*met, distribution)
        self.cascades = tuple(valid)
        if not valid:
            raise InputError(f"the space gives no valid cascade in {_MOST_DRAWS} draws; the last one: {last}")

    def check_points(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Check the user's own starting configurations; what they leave out is the sampler's to fill in.

        Args:
            points: values by parameter, each point by itself.

        Raises:
            InputError: naming the point, its parameter, the rule and the value.
        """
        for index, point in enumerate(points):
            place = f"starting_points.{index}"
            for name, value in point.items():
                self._check_name(place, name)
                _check_value(f"{place}.{name}", value, self.distributions[name])
            self._check_together(place, point)

    def distributions_of(self, parameters: Mapping[str, Any]) -> dict[str, BaseDistribution] | None:
        """Distributions of all the parameters of a draw that the space could have made; `None` if it could not."""
        if not all(
            name in self.distributions and any(_rule(value, met) is None for met in self.distributions[name])
            for name, value in parameters.items()
        ):
            return None
        trial = optuna.trial.FixedTrial(dict(parameters))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # out of range; looked at below
                self._space(cast(optuna.Trial, trial), self._defaults)
        except Exception:  # a parameter that is missing, or whatever the user's own space says of it
            return None
        met = trial.distributions
        same = met.keys() == parameters.keys()
        return met if same and all(_rule(parameters[name], met[name]) is None for name in met) else None

    def _draws(self, fixed: Mapping[str, Any]) -> Iterator[tuple[optuna.Trial, CascadeConfig | None, str | None]]:
        """Draws in which some parameters are given, each with its cascade, and with what is wrong with that."""
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        for _ in range(_MOST_DRAWS):
            study.enqueue_trial(dict(fixed))
            trial = study.ask()
            try:
                cascade = self._space(trial, self._defaults)
            except InputError as error:
                yield trial, None, str(error)
                continue
            except Exception as error:  # the space may be the user's own
                raise InputError(
                    f"space: your function failed with {type(error).__name__}: {first_line(error)}"
                ) from error
            if not isinstance(cascade, CascadeConfig):
                raise InputError(f"space: your function gave a {type(cascade).__name__}, but must give a CascadeConfig")
            refusal = self._look(cascade)
            yield trial, cascade, None if refusal is None else refusal.reason

    def _check_name(self, place: str, name: str) -> None:
        if name in self.distributions:
            return
        mend = did_you_mean(name, self.distributions)
        raise InputError(f"{place}: the space suggests no parameter {name!r}; {mend}")

    def _check_together(self, place: str, point: Mapping[str, Any]) -> None:
        unused, last, gave_cascades = set(point), None, False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # out of range; looked at below
            for trial, cascade, reason in self._draws(point):
                gave_cascades |= cascade is not None
                for name in point.keys() & trial.distributions.keys():
                    _check_value(f"{place}.{name}", point[name], (trial.distributions[name],))
                unused -= trial.distributions.keys()
                if reason is None and not unused:
                    return
                last = reason
        if unused and gave_cascades:  # a space that fails may not have come to suggest them
            others = ", ".join(f"{name} is {value!r}" for name, value in point.items() if name not in unused)
            beside = f" where {others}" if others else ""
            raise InputError(f"{place}: the space does not suggest {min(unused)!r}{beside}; leave it out")
        raise InputError(f"{place}: {last}")


def _check_value(key: str, value: Any, distributions: Sequence[BaseDistribution]) -> None:  # noqa: ANN401
    rules = [_rule(value, distribution) for distribution in distributions]
    if None not in rules:
        raise InputError(f"{key} is {value!r}, but must be {rules[0]}; change it, or the space")


def _rule(value: Any, distribution: BaseDistribution) -> str | None:  # noqa: ANN401
    """What a value must be, if it is not; `None` if it fits."""
    if isinstance(distribution, CategoricalDistribution):
        # 1 is no choice where true is one.
        fits = any(
            value == choice and isinstance(value, bool) is isinstance(choice, bool) for choice in distribution.choices
        )
        return None if fits else f"one of {', '.join(map(str, distribution.choices))}"
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    whole = isinstance(distribution, IntDistribution)
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    inside = number and math.isfinite(value) and distribution.low <= value <= distribution.high
    if inside and distribution.step is not None:
        steps = (value - distribution.low) / distribution.step
        inside = abs(steps - round(steps)) < 1e-8
    if inside:
        return None
    by = f" in steps of {distribution.step:g}" if distribution.step not in (None, 1) else ""
    return f"a {'whole ' if whole else ''}number in {distribution.low:g} … {distribution.high:g}{by}"
