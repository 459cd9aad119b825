"""How the study of a search is opened, and what is laid out in it before the sampler takes over."""

from pathlib import Path
from typing import Any

from orchestrator.experiment.config import Experiment
from orchestrator.policies.probe import SpaceProbe
from orchestrator.policies.samplers import UNTAUGHT
from orchestrator.sampling.journals import mend_journal
from orchestrator.sampling.storages import shown, study_address
from orchestrator.sampling.study import Study
from orchestrator.sampling.warm_start import Learned, find_sources
from orchestrator.searches.folder import SearchFolder
from search_spaces.cascade import CascadeSpace, Space
from trainables.errors import InputError


def open_study(experiment: Experiment, folder: SearchFolder) -> Study:
    """Open a search's study, or make it; only for the one driver of the search.

    Raises:
        InputError: if it cannot be opened, is another search's, or has lost what the search found.
    """
    address = study_address(experiment, folder)
    if isinstance(address.place, Path):
        mend_journal(address.place)
    study = Study(address, seed=experiment.seed, sampler=experiment.sampler)
    if not study.num_started and folder.archive.candidates():
        raise InputError(
            f"{folder.path} holds candidates, but its study in {shown(address.place)} has no trials; bring that back, "
            "or give this search another --name"
        )
    return study


def starting_points(experiment: Experiment, space: Space) -> tuple[dict[str, Any], ...]:
    """What is tried first: the user's own points, then hand-laid ones where the space knows some.

    As many as there are to be, even in a search of fewer trials, which may go on with more.
    """
    own = experiment.starting_points
    if not isinstance(space, CascadeSpace):
        return own
    return own + space.starting_points(experiment.num_starting_points, experiment.cascade)


def warm_start(study: Study, experiment: Experiment, folder: SearchFolder) -> tuple[Learned, ...]:
    """Let a study learn from the earlier ones that the experiment names, if its sampler learns from any.

    Raises:
        InputError: if one of them is not there or does not fit.
    """
    sources = find_sources(experiment.study.warm_start, folder=folder, objectives=experiment.objectives)
    if not sources or experiment.sampler in UNTAUGHT:
        return ()
    return study.learn(sources, SpaceProbe(experiment.find_space(), experiment.cascade), experiment.constraints)
