"""Where studies are kept: a journal file or any storage of Optuna's; and whether what is there is this search's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalStorage
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

from orchestrator.addresses import without_credentials
from orchestrator.experiment.config import Experiment
from orchestrator.experiment.differences import differences, told
from orchestrator.front.pareto import OBJECTIVES
from orchestrator.sampling.journals import JournalFile
from orchestrator.searches.folder import SearchFolder
from trainables.errors import InputError, first_line

JOURNAL_STUDY = "search"
"""Name of the only study of a journal in a search's folder."""
OBJECTIVES_ATTRIBUTE = "objectives"
SEARCH_ATTRIBUTE = "search"
MEASURED_ATTRIBUTE = "measured"
"""Of a trial: all that was measured of its student."""
Place = Path | str | BaseStorage
"""A journal file, the URL of a database, or a storage of Optuna's, such as one in memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyAddress:
    """A study and what it is of.

    Attributes:
        place: where it is kept.
        name: in its storage.
        objectives: names out of `pareto.OBJECTIVES`.
        made_for: what else tells it from others of its name, as plain values.
    """

    place: Place
    name: str = JOURNAL_STUDY
    objectives: Sequence[str]
    made_for: Mapping[str, Any] = field(default_factory=dict)


def study_address(experiment: Experiment, folder: SearchFolder) -> StudyAddress:
    """Where the study of a search is."""
    in_folder = experiment.study.url is None
    return StudyAddress(
        place=folder.study_file if experiment.study.url is None else experiment.study.url,
        # A folder may be renamed or copied with all that it holds.
        name=JOURNAL_STUDY if in_folder else folder.name,
        objectives=experiment.objectives,
        made_for={
            "space": experiment.to_dict()["space"],
            SEARCH_ATTRIBUTE: folder.search_id if folder.exists else None,
        },
    )


def open_storage(place: Place) -> BaseStorage:
    """Connect to a storage; a journal or a database's tables are made if they are not there.

    Raises:
        InputError: if that fails, without the credentials that the URL may hold.
    """
    if isinstance(place, BaseStorage):
        return place
    if isinstance(place, Path):
        try:
            return JournalStorage(JournalFile(place))
        except OSError as error:
            raise InputError(
                f"{place} cannot be read and written: {first_line(error)}; change its permissions"
            ) from error
        except Exception as error:  # whatever a file's content makes of Optuna
            raise InputError(
                f"{place} is no journal of a study or is damaged ({first_line(error)}); restore or remove it"
            ) from error
    if "://" not in place:
        raise InputError(f"study.url is {place!r}, but must be a URL, such as sqlite:///studies.db")
    # Of a file connections cost nothing, and are closed after each call; those to a server are kept.
    options = {} if database_file(place) is None else {"poolclass": NullPool}
    try:
        return get_storage(RDBStorage(place, engine_kwargs=options))
    except Exception as error:  # SQLAlchemy's, the database driver's, or one for a missing driver
        reason = without_credentials(first_line(error), place)
        raise InputError(
            f"the study's storage at {shown(place)} cannot be opened: {reason}; correct the address (study.url or "
            "study.warm_start), or leave it out"
        ) from error


def database_file(url: str) -> Path | None:
    """The file of an SQLite database; `None` of any other, and of what is no URL."""
    try:
        address = make_url(url)
    except ArgumentError:
        return None
    name = address.database
    if address.get_backend_name() != "sqlite" or not name or name == ":memory:" or name.startswith("file:"):
        return None
    return Path(name)


def shown(place: Place) -> str:
    """A place as it may be written down."""
    return without_credentials(place, place) if isinstance(place, str) else str(place)


def find_study(address: StudyAddress) -> optuna.Study | None:
    """The study of a search, if it is there.

    Raises:
        InputError: if the storage cannot be opened, or holds a study of that name for something else: what differs.
    """
    if isinstance(address.place, Path) and not address.place.exists():
        return None
    try:
        study = optuna.load_study(study_name=address.name, storage=open_storage(address.place))
    except KeyError:
        return None
    difference = _difference(study, address)
    if difference is not None:
        raise InputError(
            f"study {address.name!r} in {shown(address.place)} is of another search: {difference}; give this one "
            "another --name or study.url"
        )
    return study


def find_or_make_study(address: StudyAddress) -> optuna.Study:
    """The study of a search, made if it is not there.

    Raises:
        InputError: as of `find_study`.
    """
    study = find_study(address)
    if study is None:
        study = optuna.create_study(
            study_name=address.name,
            storage=open_storage(address.place),
            directions=[OBJECTIVES[objective] for objective in address.objectives],
            load_if_exists=True,
        )
    for key, value in _attributes(address).items():
        if key not in study.user_attrs:
            study.set_user_attr(key, value)
    return study


def _attributes(address: StudyAddress) -> dict[str, Any]:
    return {OBJECTIVES_ATTRIBUTE: list(address.objectives), **address.made_for}


def _difference(study: optuna.Study, address: StudyAddress) -> str | None:
    there = [direction.name.lower() for direction in study.directions]
    here = [OBJECTIVES[objective] for objective in address.objectives]
    known = study.user_attrs.get(OBJECTIVES_ATTRIBUTE)
    if known is not None and known != list(address.objectives):
        return f"its objectives are {', '.join(known)}, and here {', '.join(address.objectives)}"
    if there != here:
        return f"its objectives are to {', '.join(there)}, and here to {', '.join(here)}"
    wanted = _attributes(address)
    old = {key: study.user_attrs[key] for key in wanted if key in study.user_attrs}
    # One that was killed as it was made has no trials yet, and gets what it lacks.
    if len(old) < len(wanted) and study.get_trials(deepcopy=False):
        return "it was not made by a search"
    found = list(differences(old, {key: wanted[key] for key in old}))
    if any(each.key == SEARCH_ATTRIBUTE for each in found):
        return "it was made from another folder"
    return told(found) if found else None
