"""Policies to replay: how a search chooses what to train, and for how long."""

import re
from dataclasses import dataclass

from orchestrator.policies.rungs import EarlyStopping
from orchestrator.policies.samplers import check_sampler
from search_spaces.cascade import MOST_STARTING_POINTS
from trainables.errors import InputError

_NUMBER = r"\d*\.?\d+"
_WORDS = re.compile(
    r"(?P<sampler>[a-z0-9-]+)(?P<start>\+start(:(?P<points>\d+))?)?"
    rf"(?P<rungs>\+rungs(:(?P<first>{_NUMBER})(:(?P<factor>{_NUMBER}))?)?)?"
)
DEFAULT_STARTING_POINTS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """How a search chooses what to train, and for how long.

    Attributes:
        sampler: out of `samplers.SAMPLERS`.
        num_starting_points: hand-laid trials before the sampler takes over.
        early_stopping: whether trials are stopped at rungs, and where those lie.
    """

    sampler: str
    num_starting_points: int = 0
    early_stopping: EarlyStopping | None = None

    @classmethod
    def parse(cls, words: str) -> "Policy":
        """Read `SAMPLER[+start[:N]][+rungs[:FIRST[:FACTOR]]]`, such as `tpe+start:8+rungs:0.6:3`.

        Raises:
            InputError: if it is not of this form, there is no such sampler, or N is too large.
        """
        match = _WORDS.fullmatch(words)
        if match is None:
            raise InputError(
                f"policy is {words!r}, but must be SAMPLER[+start[:N]][+rungs[:FIRST[:FACTOR]]], "
                "such as tpe+start:6+rungs:0.6:3"
            )
        points = int(match["points"] or (DEFAULT_STARTING_POINTS if match["start"] else 0))
        if points > MOST_STARTING_POINTS:
            raise InputError(f"policy is {words!r}, but N must be at most {MOST_STARTING_POINTS}")
        rungs = {"first_rung": match["first"], "reduction_factor": match["factor"]}
        settings = {name: float(number) for name, number in rungs.items() if number is not None}
        return cls(
            sampler=check_sampler(match["sampler"]),
            num_starting_points=points,
            early_stopping=EarlyStopping(**settings) if match["rungs"] else None,
        )
