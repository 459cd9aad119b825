"""Whether a start may go on with what lies in a search's folder: the same search, on the same images."""

from orchestrator.experiment.config import Experiment
from orchestrator.experiment.differences import differences, told
from orchestrator.searches.folder import SearchFolder
from orchestrator.searches.layout import DATA_DIGEST, DATA_PLACE, SEARCH_ID
from trainables.errors import InputError

# What may differ when a search goes on: how much is tried and where it runs, not what is tried.
_MAY_DIFFER = (
    "num_trials",
    "stop",
    "study.warm_start",
    "resources",
    "checkpoint_minutes",
    "tracking",
    "reuse",
    "data.path",  # images are told apart by their digest
    "data.workers",
)
_SHOWN = 12  # characters of a digest, which tell any two apart
# What a search that was killed as it began may have left.
_BEGUN = ("lock", SEARCH_ID, DATA_DIGEST, DATA_PLACE)


def require_fresh_or_same(folder: SearchFolder, experiment: Experiment, *, resume: bool) -> None:
    """Refuse to mix searches.

    Args:
        folder: where the search is to be.
        experiment: what it is to search.
        resume: whether a search that is there may go on.

    Raises:
        InputError: if a search is there and is not to be resumed, or is another one than this.
    """
    if not folder.exists:
        if folder.path.is_dir() and any(file.name not in _BEGUN for file in folder.path.iterdir()):
            raise InputError(f"{folder.path} holds other files; choose another --name or --storage")
        return
    if not resume:
        raise InputError(
            f"{folder.place} holds a search already; go on with it by --resume, or give this one another --name"
        )
    here = experiment.without_secrets().to_dict()
    found = list(differences(folder.experiment().to_dict(), here, may_differ=_MAY_DIFFER))
    if found:
        raise InputError(
            f"{folder.place} holds another search: {told(found)}; give this one another --name, or leave "
            f"{'the setting as it was' if len(found) == 1 else 'the settings as they were'}"
        )


def require_same_data(folder: SearchFolder, digest: str) -> None:
    """Refuse other images than those that the search began with, if it has begun.

    Args:
        folder: of the search.
        digest: of training and validation images, as `identity.data_digest` gives it.

    Raises:
        InputError: if files were changed, added or removed since.
    """
    path = folder.path / DATA_DIGEST
    began = path.read_text(encoding="utf-8").strip() if path.exists() else digest
    if began != digest:
        raise InputError(
            f"the images under data.path are no longer those that search {folder.name!r} began with (their digest is "
            f"{digest[:_SHOWN]}… and was {began[:_SHOWN]}…), so training, validation and test images would mix; "
            "put them back, or search them under another --name"
        )
