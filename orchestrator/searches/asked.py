"""Trials that a search has asked for."""

from dataclasses import dataclass

from trainables.config import CascadeConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A trial to run.

    Attributes:
        number: in the study, from 0.
        cascade: what it trains.
    """

    number: int
    cascade: CascadeConfig
