"""Candidates of what trials gave, and what trials gave out of candidates."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.front.archive import Candidate
from trainables.config import CascadeConfig
from trainables.errors import InputError
from trainables.results import LevelResult


def candidates_of(
    trial: int, results: Sequence[LevelResult], network_folders: Mapping[int, str], cascade: CascadeConfig
) -> tuple[Candidate, ...]:
    """Make one candidate of each level that a trial gave.

    Args:
        trial: number of the trial in the search.
        results: what each level came to.
        network_folders: level → folder of its saved network, relative to the search's folder.
        cascade: the configuration that made them.

    Returns:
        As many candidates as results, by level.
    """
    text = json.dumps(cascade.to_dict(), sort_keys=True)
    return tuple(
        Candidate(
            trial=trial,
            num_assistants=result.num_levels - 1,
            network=network_folders[result.level],
            cascade=text,
            **_shared(result),
        )
        for result in sorted(results, key=lambda result: result.level)
    )


def results_of(candidates: Sequence[Candidate]) -> tuple[LevelResult, ...]:
    """What the levels of one trial came to, by level: what `candidates_of` made them of."""
    return tuple(
        LevelResult(num_levels=candidate.num_assistants + 1, **_shared(candidate))
        for candidate in sorted(candidates, key=lambda candidate: candidate.level)
    )


def _shared(values: LevelResult | Candidate) -> dict[str, Any]:
    """What a result and a candidate both have."""
    names = (field.name for field in dataclasses.fields(LevelResult))
    return {name: getattr(values, name) for name in names if name != "num_levels"}


def cascade_of(candidate: Candidate) -> CascadeConfig:
    """The configuration that made a candidate.

    Raises:
        InputError: if it is damaged.
    """
    try:
        return CascadeConfig.from_dict(json.loads(candidate.cascade))
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"the archive's configuration of candidate {candidate.label} is damaged: {error}") from error
