"""What is looked at before a search begins, and what is written down when it does."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from orchestrator.data.datasets import data_sets, load_splits, require_drawn_test_images
from orchestrator.data.left_out import data_notes
from orchestrator.experiment.config import Experiment
from orchestrator.preparation.checks import Checked, check_network, check_ranks
from orchestrator.preparation.teacher_task import TeacherTask
from orchestrator.sampling.storages import find_study, study_address
from orchestrator.sampling.warm_start import find_sources
from orchestrator.searches.folder import SearchFolder
from orchestrator.searches.images import find_images_again, note_place
from orchestrator.searches.mirror import Mirror
from orchestrator.searches.same_search import require_fresh_or_same, require_same_data
from orchestrator.tracking import Tracker
from orchestrator.trials.parts import stage_bucket
from orchestrator.trials.record import search_parameters
from orchestrator.trials.watcher import Watcher
from trainables.data_config import DataConfig
from trainables.datasets.data import DataSplits
from trainables.errors import InputError
from trainables.identity import data_digest
from trainables.pruning.cost import LatencyTable


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Checks:
    """What is known of a search once its checks without Ray have passed.

    Attributes:
        images: where they are, on this machine.
        data: the images themselves.
        digest: of them.
        network: what its checks found.
    """

    images: DataConfig
    data: DataSplits
    digest: str
    network: Checked


def check_search(experiment: Experiment, folder: SearchFolder, *, resume: bool, watcher: Watcher) -> Checks:
    """Look at all that can be looked at before Ray starts, the cheapest first.

    Raises:
        InputError: if anything that was asked for cannot be.
    """
    require_fresh_or_same(folder, experiment, resume=resume)
    folder.require_writable()
    for bucket in filter(None, (folder.bucket, stage_bucket(experiment, folder))):
        bucket.require_usable()
    find_study(study_address(experiment, folder))
    find_sources(experiment.study.warm_start, folder=folder, objectives=experiment.objectives)
    images = find_images_again(folder, experiment.data)
    for note in data_notes(images):
        watcher.note(note)
    require_drawn_test_images(images)
    data = load_splits(images, watcher.note)
    digest = data_digest(data)
    require_same_data(folder, digest)
    check_ranks(experiment, data)
    network = check_network(experiment, data)
    for note in network.notes:
        watcher.note(note)
    return Checks(images=images, data=data, digest=digest, network=network)


def begin(
    experiment: Experiment,
    folder: SearchFolder,
    checks: Checks,
    *,
    task: TeacherTask,
    table: LatencyTable | None,
    mirror: Mirror | None,
) -> None:
    """Make the folder, and keep in it what is known by now."""
    folder.begin(experiment, data=checks.digest)
    if task.finished_stages is not None:
        task.finished_stages.sweep()
    note_place(folder, checks.images)
    if table is not None:
        task.keep_latency(table)
    if mirror is not None:
        mirror.begin()


def tell_start(
    tracker: Tracker, experiment: Experiment, folder: SearchFolder, checks: Checks, *, chosen: Mapping[str, float]
) -> None:
    """Tell MLflow what is searched, and what was chosen of it on this machine."""
    shown = experiment.without_secrets()
    tracker.start_search(
        folder.name,
        search_parameters(shown.to_dict()) | dict(chosen),
        shown.to_yaml(),
        folder.search_id,
        data=data_sets(shown.data, checks.data, checks.digest),
    )


def alone_if_timed(experiment: Experiment) -> Experiment:
    """The same, one trial at a time where latency is measured, which means nothing while others run."""
    if not experiment.measures_latency:
        return experiment
    alone = experiment.resources.model_copy(update={"max_concurrent": 1})
    return experiment.model_copy(update={"resources": alone})


@contextmanager
def removed_if_unused(folder: SearchFolder) -> Iterator[None]:
    """Leave no empty folder behind when a check fails after it was made."""
    try:
        yield
    except InputError:
        if folder.path.is_dir() and not folder.exists:
            (folder.path / "lock").unlink(missing_ok=True)
            with suppress(OSError):  # what else is there is the user's
                folder.path.rmdir()
        raise
