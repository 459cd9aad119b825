"""How the trials of a study ended."""

from collections.abc import Mapping
from types import MappingProxyType

import optuna
from optuna.trial import TrialState

from orchestrator.sampling.storages import find_study, study_address
from orchestrator.searches.curves import End
from orchestrator.searches.folder import SearchFolder
from trainables.errors import InputError

CASCADE_ATTRIBUTE = "cascade"
"""Of a trial that was asked for: what it trains."""
_ENDS: Mapping[TrialState, End] = MappingProxyType(
    {TrialState.COMPLETE: "finished", TrialState.FAIL: "failed", TrialState.PRUNED: "stopped"}
)


def conclusions(study: optuna.Study) -> dict[int, End]:
    """How trials that were asked for ended, by number."""
    return {
        trial.number: _ENDS[trial.state]
        for trial in study.get_trials(deepcopy=False, states=tuple(_ENDS))
        if CASCADE_ATTRIBUTE in trial.user_attrs
    }


def read_conclusions(folder: SearchFolder) -> dict[int, End] | None:
    """How the trials of a search ended, by number, which nothing is changed for.

    Returns:
        `None` where that is not known here: the study is in a database, which may be out of reach, or not to be read.

    Raises:
        InputError: if there is no such search.
    """
    experiment = folder.experiment()
    if experiment.study.url is not None:
        return None
    try:
        study = find_study(study_address(experiment, folder))
    except InputError:
        return None
    return None if study is None else conclusions(study)
