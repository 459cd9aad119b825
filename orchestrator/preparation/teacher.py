"""The teacher of a search: read from a file or trained once, in a Ray task that goes on from its last checkpoint."""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import ray
from torch import nn

from orchestrator.machines.rank_actors import RankActors
from orchestrator.machines.rank_crew import RankLost
from orchestrator.preparation.teacher_task import TeacherTask, epochs_done
from orchestrator.storage.staging import no_room
from trainables.datasets.data import DataSplits
from trainables.errors import InputError, StageFailure, first_line
from trainables.files.input_spec import InputSpec
from trainables.files.states import load_state
from trainables.hardware import processor
from trainables.hardware.ranks import Ranks
from trainables.networks.given_weights import load_weights, versioned
from trainables.networks.models import build
from trainables.pruning.cost import LatencyTable, count_macs, count_params
from trainables.pruning_config import Pruning
from trainables.results import EpochProgress, TeacherResult
from trainables.stages.evaluation import evaluate, guess
from trainables.stages.teacher import TeacherStage


def prepare_teacher(task: TeacherTask, data: ray.ObjectRef, *, told: Callable[[EpochProgress], None]) -> TeacherResult:
    """Give the search its teacher: the one it has, or one that is read or trained now.

    Args:
        task: what to do.
        data: reference to the arrays of a `DataSplits`.
        told: called after each epoch.

    Raises:
        StageFailure: if training diverges.
        OSError: if nothing more fits on the disk of the search.
    """
    task.fetch()
    result = task.result()
    if result is not None:
        return result
    state = task.state()
    num_told = 0 if state is None else epochs_done(state)  # by an earlier start
    latency_ms = None
    try:
        if task.timed_on is not None:  # before anything else runs
            timing = ray.remote(max_retries=2, **task.timed_on.options)(_latency_ms)
            latency_ms = ray.get(timing.remote(task, task.timed_on, data))
        with task.actors.placed() as options:
            # As options of the function, so that Ray ends a process that has used a card, and the card is free again.
            remote = ray.remote(max_retries=2, retry_exceptions=[RankLost], **options)(_run)
            for progress in remote.remote(task, data, (data,), num_told, latency_ms):
                told(EpochProgress.from_dict(ray.get(progress)))
    except ray.exceptions.RayTaskError as error:
        raise _failure(error.cause, task.folder) from error
    task.fetch()
    result = task.result()
    assert result is not None
    return result


def _failure(cause: Exception, folder: Path) -> Exception:
    """What is said of that which ended the task."""
    if isinstance(cause, StageFailure | InputError):
        return cause
    said = first_line(cause)
    full = no_room(said)
    if full is not None:
        return OSError(full.errno, full.strerror, str(folder))
    return StageFailure(f"{type(cause).__name__}: {said}", stage="teacher")


def time_layers(task: TeacherTask, pruning: Pruning, data: DataSplits, *, actors: RankActors) -> LatencyTable:
    """The times of the teacher's layers: those that the search has, or measured now, where trials will run.

    Nothing else may run meanwhile. The weights do not matter, so the teacher need not be trained.

    Args:
        task: says what network, on what device and how many threads.
        pruning: says what is kept whole, and what widths are rounded to.
        data: the images, of which only the shape counts.
        actors: of a trial, one of which takes the times.

    Raises:
        InputError: if the file that holds them is damaged, or lost though sizes were made of it.
    """
    table = task.latency()
    if table is not None:
        return table
    if task.result() is not None:
        raise InputError(
            f"{task.folder} has a teacher but no latency.json, and other times would make other sizes; put it back, or "
            "search under another --name"
        )
    remote = ray.remote(max_retries=2, **actors.options)(_time_layers)
    values = ray.get(remote.remote(task, actors, pruning, data.num_classes, data.input_shape))
    return LatencyTable.from_dict(values)


def _time_layers(
    task: TeacherTask, actors: RankActors, pruning: Pruning, num_classes: int, input_shape: tuple[int, int, int]
) -> dict[str, Any]:
    from trainables.pruning.layer_times import measure_layers

    network = build(task.model, num_classes=num_classes, in_channels=input_shape[0], seed=task.seed)
    network.to("cuda" if actors.num_gpus > 0 else "cpu")
    return measure_layers(network, input_shape, pruning=pruning, num_threads=actors.num_threads).to_dict()


def _latency_ms(task: TeacherTask, actors: RankActors, arrays: dict[str, Any]) -> float:
    """Latency of the dense network where and how a trial measures that of its levels; the weights do not matter."""
    from trainables.hardware.latency import measure  # slow to import, and seldom needed

    processor.prepare(actors.num_threads, share_of_card=actors.num_gpus)
    data = DataSplits.from_arrays(arrays)
    network = build(task.model, num_classes=data.num_classes, in_channels=data.in_channels, seed=task.seed)
    network.to("cuda" if actors.num_gpus > 0 else "cpu")
    return measure(network, data.input_shape, batch_size=1, num_threads=actors.num_threads).median_ms


class TeacherFollower:
    """What a rank other than the first has of the teacher's training; it keeps nothing on disk."""

    def __init__(self, ranks: Ranks, task: TeacherTask, arrays: dict[str, Any]) -> None:
        """Take what all ranks have.

        Args:
            ranks: seen from this one.
            task: what to train.
            arrays: of a `DataSplits`.
        """
        network, data = _begun(task, arrays)
        self._stage = _stage(task, network, data, ranks)

    def begin(self, path: str) -> None:
        """Go on from a checkpoint of the first rank's."""
        self._stage.load_state(*load_state(Path(path)))

    def step(self, seconds: float) -> None:
        """Train one epoch, or about so many seconds of it."""
        self._stage.train_for(seconds)


def _begun(task: TeacherTask, arrays: dict[str, Any]) -> tuple[nn.Module, DataSplits]:
    processor.prepare(task.actors.num_threads)
    data = DataSplits.from_arrays(arrays).to(task.device)
    network = build(task.model, num_classes=data.num_classes, in_channels=data.in_channels, seed=task.seed)
    return network.to(task.device), data


def _stage(task: TeacherTask, network: nn.Module, data: DataSplits, ranks: Ranks) -> TeacherStage:
    return TeacherStage(
        network, recipe=task.recipe, data=data, augmentation=task.augmentation, seed=task.seed, ranks=ranks
    )


def _run(
    task: TeacherTask,
    arrays: dict[str, Any],
    shared: tuple[ray.ObjectRef],
    num_told: int,
    latency_ms: float | None = None,
) -> Iterator[dict[str, Any]]:
    """Train it; `shared` is the reference that the arrays came from. Yields the epochs after the first `num_told`."""
    network, data = _begun(task, arrays)
    if task.model.weights is None:
        try:
            result = yield from _found_or_trained(task, network, data, shared, num_told)
        finally:
            if task.finished_stages is not None:
                task.finished_stages.release()
    else:
        load_weights(network, Path(task.model.weights))
        found = evaluate(network, data)
        result = TeacherResult(
            val_accuracy=found.accuracy,
            val_top5=found.top5,
            macs=count_macs(network, data.input_shape),
            params=count_params(network),
            seconds=0.0,
        )
    values = result.to_dict() | {"val_guess": guess(data.val.labels_N)}
    if latency_ms is not None:
        values["latency_ms"] = latency_ms
    task.keep(network, values, InputSpec.of(data))


def _found_or_trained(
    task: TeacherTask, network: nn.Module, data: DataSplits, shared: tuple[ray.ObjectRef], num_told: int
) -> Generator[dict[str, Any], None, TeacherResult]:
    """Give the network its weights, from a search that trained the same teacher or by training; yields each epoch."""
    store = task.finished_stages
    found = store.find_or_claim(task.identity) if store is not None else None
    if found is not None:
        tensors, values = found
        network.load_state_dict(versioned(tensors, network))
        for epoch in values["epochs"]:  # noqa: UP028 - Ray sends into its generators, which a list does not take
            yield epoch
        return TeacherResult.from_dict(values["result"] | {"reused": True})
    crew = task.actors.start(TeacherFollower, task, *shared)
    epochs: list[dict[str, Any]] = []
    try:
        stage = _stage(task, network, data, crew.ranks)
        state = task.state()
        if state is not None:
            tensors, values = state
            with crew.doing("begin", str(task.state_file)):
                stage.load_state(tensors, values)
            epochs += values["epochs"]
        for epoch in epochs[num_told:]:  # noqa: UP028 - where a task is tried again, Ray passes over as many as came
            yield epoch
        while not stage.finished:
            with crew.doing("step", task.checkpoint_seconds):
                progress = stage.train_for(task.checkpoint_seconds)
            told = [] if progress is None else [progress.to_dict()]
            epochs += told
            tensors, values = stage.state()
            task.keep_state(tensors, values | {"epochs": epochs})
            for epoch in told:  # noqa: UP028 - as above
                yield epoch
    finally:
        crew.close()
    result = stage.result()
    if store is not None:
        store.keep(task.identity, network.state_dict(), {"result": result.to_dict(), "epochs": epochs})
    return result
