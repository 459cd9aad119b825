"""What the sampler learns from earlier searches: their completed trials, added to the study beside its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import TrialState

from orchestrator.front.constraints import Bounds, measured_violations
from orchestrator.front.pareto import OBJECTIVES
from orchestrator.policies.probe import SpaceProbe
from orchestrator.sampling.storages import (
    JOURNAL_STUDY,
    MEASURED_ATTRIBUTE,
    OBJECTIVES_ATTRIBUTE,
    SEARCH_ATTRIBUTE,
    Place,
    database_file,
    open_storage,
    shown,
)
from orchestrator.searches.folder import SearchFolder
from orchestrator.searches.layout import EXPERIMENT
from orchestrator.words import counted
from trainables.errors import InputError
from trainables.plain import at_home

SOURCE_ATTRIBUTE = "warm_start"
"""Attribute of trials that came from elsewhere: the search's id or the study's address, and the number there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """An earlier study.

    Attributes:
        label: as it may be shown.
        study: opened.
    """

    label: str
    study: optuna.Study


@dataclass(frozen=True, kw_only=True, slots=True)
class Learned:
    """What came of one earlier study.

    Attributes:
        label: the study's.
        num_added: trials that were added now, or by an earlier start.
        num_left_out: completed trials that do not fit the space, or do not say all that is needed.
    """

    label: str
    num_added: int
    num_left_out: int

    def __str__(self) -> str:
        """For people to read."""
        left_out = f", {self.num_left_out} left out as they do not fit this space" if self.num_left_out else ""
        return f"the sampler knows {counted(self.num_added, 'trial')} of {self.label}{left_out}"


def find_sources(names: Sequence[str], *, folder: SearchFolder, objectives: Sequence[str]) -> tuple[Source, ...]:
    """Open earlier studies, without changing them.

    Args:
        names: each a search beside this one, a search's folder, a journal file, or the URL of a database with the
            study's name behind a `#`, which may be left out where it holds but one.
        folder: of the search that is to learn.
        objectives: its own.

    Raises:
        InputError: naming what is not there or has other objectives.
    """
    return tuple(_find_source(name, folder, objectives) for name in names)


def _find_source(name: str, folder: SearchFolder, objectives: Sequence[str]) -> Source:
    storage = folder.storage
    place, study_name, label = _locate(name, storage)
    if isinstance(place, Path) and not place.is_file():
        searches = ", ".join(folder.neighbours()) or "none"
        raise InputError(
            f"study.warm_start: {label!r} is neither a search in {folder.storage_place} (there: {searches}) nor a "
            "search's folder nor a journal; name one of these"
        )
    file = database_file(place) if isinstance(place, str) else None
    if file is not None and not file.is_file():  # which SQLite would make
        raise InputError(f"study.warm_start: {label!r} needs {file}, which is not there; correct it or leave it out")
    opened = open_storage(place)
    names = sorted(study.study_name for study in opened.get_all_studies())
    if study_name is None and len(names) == 1:
        study_name = names[0]
    if study_name not in names:
        there = ", ".join(names) or "none"
        raise InputError(f"study.warm_start: {label!r} names no study; there are {there}; give one as ADDRESS#NAME")
    study = optuna.load_study(study_name=study_name, storage=opened)
    if folder.exists and study.user_attrs.get(SEARCH_ATTRIBUTE) == folder.search_id:
        raise InputError(f"study.warm_start: {label!r} is this search itself, which knows its own trials; leave it out")
    known = study.user_attrs.get(OBJECTIVES_ATTRIBUTE)
    directions = [direction.name.lower() for direction in study.directions]
    fits = set(objectives) <= set(known) if known else directions == [OBJECTIVES[name] for name in objectives]
    if not fits:
        raise InputError(
            f"study.warm_start: the objectives of {label!r} are {', '.join(known or directions)}, but must hold "
            f"{', '.join(objectives)}"
        )
    return Source(label=label, study=study)


def _locate(name: str, storage: Path) -> tuple[Place, str | None, str]:
    """Where a study is, its name there if that was said, and how it is shown."""
    if "://" in name:
        url, _, study_name = name.partition("#")
        return url, study_name or None, shown(url) + (f"#{study_name}" if study_name else "")
    path = Path(at_home(name))
    folder = next((found for found in (storage / name, path) if (found / EXPERIMENT).is_file()), None)
    if folder is None:
        return path, None, name
    try:
        search = SearchFolder(storage=folder.resolve().parent, name=folder.resolve().name)
    except InputError as error:
        raise InputError(
            f"study.warm_start: {name!r} is a folder that no search can be called like; rename it, or name the journal "
            "in it"
        ) from error
    database = search.experiment().study.url
    return (search.study_file, JOURNAL_STUDY, name) if database is None else (database, search.name, name)


def learn(
    study: optuna.Study, sources: Sequence[Source], probe: SpaceProbe, *, objectives: Sequence[str], bounds: Bounds
) -> tuple[Learned, ...]:
    """Add the completed trials of earlier studies; those that are there already are not added again.

    Args:
        study: that is to learn.
        sources: to learn from.
        probe: the space that their parameters have to fit.
        objectives: of the study; those of a source may be in another order, and more.
        bounds: of the study; a trial that does not say how it stands to them is left out.
    """
    there = {trial.user_attrs.get(SOURCE_ATTRIBUTE) for trial in study.get_trials(deepcopy=False)}
    learned = []
    for source in sources:
        num_added = num_left_out = 0
        for trial in source.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if SOURCE_ATTRIBUTE in trial.user_attrs:  # learned itself; whoever wants it names the origin
                continue
            # The same search may be named in several ways.
            mark = f"{source.study.user_attrs.get(SEARCH_ATTRIBUTE) or source.label}:{trial.number}"
            if mark in there:
                num_added += 1
                continue
            distributions = probe.distributions_of(trial.params)
            known = source.study.user_attrs.get(OBJECTIVES_ATTRIBUTE, objectives)
            values = dict(zip(known, trial.values, strict=True))
            broken = measured_violations(bounds, trial.user_attrs.get(MEASURED_ATTRIBUTE, {}) | values)
            if distributions is None or broken is None:
                num_left_out += 1
                continue
            study.add_trial(
                optuna.trial.create_trial(
                    params=trial.params,
                    distributions=distributions,
                    values=[values[name] for name in objectives],
                    constraints=broken,
                    user_attrs={SOURCE_ATTRIBUTE: mark},
                )
            )
            there.add(mark)
            num_added += 1
        learned.append(Learned(label=source.label, num_added=num_added, num_left_out=num_left_out))
    return tuple(learned)
