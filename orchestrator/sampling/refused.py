"""Draws that give no trial, since what was drawn cannot be: what people are told of them."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.policies.looks import Look, Refusal
from orchestrator.words import counted
from search_spaces.cascade import CascadeDefaults, Space
from trainables.config import CascadeConfig
from trainables.errors import InputError

if TYPE_CHECKING:
    import optuna

_NUMBER = r"\d[\d.,]*(?:e[+-]?\d+)?"
_NUMBERS = re.compile(rf"{_NUMBER}(?: {_NUMBER})*")  # also so many sizes as a cascade happens to have


class RefusedDraws:
    """Draws that were refused, by the reason but for its numbers: the first of each is told, the others are counted."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """Take whom to tell."""
        self._say = say
        self._times: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        self._drawn: Mapping[str, Any] = {}

    def watch(self, space: Space, look: Look) -> tuple[Space, Look]:
        """The same space and look, whose refusals are heard."""
        return partial(self._draw, space), partial(self._look_at, look)

    def sum_up(self) -> None:
        """Say how many draws were refused for each reason that there was more than once."""
        for kind, times in self._times.items():
            if times > 1:
                self._say(f"{counted(times, 'draw')} could not be run, such as this one: {self._first[kind]}")

    def _draw(self, space: Space, trial: "optuna.Trial", defaults: CascadeDefaults) -> CascadeConfig:
        try:
            return space(trial, defaults)
        except InputError as error:
            self._hear(str(error), trial.params)
            raise
        finally:
            self._drawn = trial.params

    def _look_at(self, look: Look, cascade: CascadeConfig) -> Refusal | None:
        refusal = look(cascade)
        if refusal is not None:
            self._hear(refusal.reason, self._drawn)
        return refusal

    def _hear(self, reason: str, parameters: Mapping[str, Any]) -> None:
        kind = _NUMBERS.sub("#", reason)
        self._times[kind] += 1
        if kind not in self._first:
            self._first[kind] = reason
            drawn = ", ".join(f"{name} {_short(value)}" for name, value in parameters.items())
            self._say(
                "a draw cannot be run, and another takes its place (said once for each reason): "
                f"{reason}{f'; drawn were {drawn}' if drawn else ''}"
            )


def _short(value: Any) -> str:  # noqa: ANN401 - of each parameter
    return f"{value:.4g}" if isinstance(value, float) else str(value)
