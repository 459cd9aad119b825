"""The teacher of a search: read from a file or trained once, in a Ray task that goes on from its last checkpoint."""

import json
import logging
import math
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from torch import nn

from orchestrator.answers import insist
from orchestrator.bucket import Bucket
from orchestrator.places import fetch_teacher
from orchestrator.rank_actors import RankActors, RankLost
from orchestrator.reuse import StageFolder
from orchestrator.whole_files import write_atomically
from trainables.checkpoint import InputSpec, load_network, load_state, save_network, save_state
from trainables.cost import LatencyTable, count_macs, count_params
from trainables.data import DataSplits
from trainables.data_config import Augmentation
from trainables.errors import InputError, StageFailure, first_line
from trainables.evaluation import evaluate
from trainables.identity import Identity
from trainables.imports import is_import_path
from trainables.model_config import ModelConfig
from trainables.models import build, find_builder, load_weights, versioned
from trainables.pruning_config import Pruning
from trainables.ranks import Ranks
from trainables.recipe import Recipe
from trainables.results import EpochProgress, TeacherResult
from trainables.teacher import TeacherStage
from trainables.training import Tensors

STATE = "state.safetensors"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherTask:
    """How a search gets its teacher.

    Attributes:
        folder: where it is kept: `network/`, `result.json`, `latency.json` where sizes are in latency, and while it is
            trained `state.safetensors`.
        model: the network.
        recipe: how it is trained.
        augmentation: what training batches go through.
        seed: of its initial weights and its training.
        actors: who train it: how many ranks, and what each takes.
        measure_latency: measure its latency too.
        finished_stages: where a teacher that was trained before is found; `None` trains one.
        identity: what determines the teacher's weights.
        bucket: its place in a bucket, where the folder is a working copy that machines do not share.
        checkpoint_seconds: after about which an epoch that is not done leaves a checkpoint.
    """

    folder: Path
    model: ModelConfig
    recipe: Recipe
    augmentation: Augmentation
    seed: int
    actors: RankActors
    measure_latency: bool
    finished_stages: StageFolder | None
    identity: Identity
    bucket: Bucket | None = None
    checkpoint_seconds: float = math.inf

    @property
    def device(self) -> str:
        """Where each rank trains."""
        return "cuda" if self.actors.num_gpus > 0 else "cpu"

    @property
    def network_folder(self) -> Path:
        """The saved teacher."""
        return self.folder / "network"

    @property
    def state_file(self) -> Path:
        """The last checkpoint, while it is trained."""
        return self.folder / STATE

    def result(self) -> TeacherResult | None:
        """The finished teacher's figures, or `None` while there is none."""
        path = self.folder / "result.json"
        return TeacherResult.from_dict(json.loads(path.read_text())) if path.exists() else None

    def latency(self) -> LatencyTable | None:
        """The times of its layers that the search's sizes are made of, or `None` while there are none.

        Raises:
            InputError: if the file is damaged.
        """
        path = self.folder / "latency.json"
        if not path.exists():
            return None
        try:
            return LatencyTable.from_dict(json.loads(path.read_text()))
        except (InputError, json.JSONDecodeError) as error:
            raise InputError(
                f"{path} is damaged ({first_line(error)}), and other times would make other sizes; put it back, or "
                "search under another --name"
            ) from error

    def keep_state(self, tensors: Tensors, values: dict[str, Any]) -> None:
        """Keep what training goes on from; on this machine alone where the bucket does not take it."""
        path = self.state_file
        save_state(path, tensors, values)
        if self.bucket is not None:
            try:
                self.bucket.write(STATE, path.read_bytes())
            except OSError as error:
                _log.warning("%s: %s", self.bucket.address, first_line(error))

    def state(self) -> tuple[Tensors, dict[str, Any]] | None:
        """What training goes on from, if it was begun; it lies in `state_file` then.

        It is the farther of this machine's and a bucket's, which is waited for.
        """
        path, bucket = self.state_file, self.bucket
        here = load_state(path) if path.exists() else None
        content = None if bucket is None else insist(lambda: bucket.read(STATE), what="reading the teacher's state")
        if content is not None:
            with tempfile.TemporaryDirectory() as fetched:
                there = Path(fetched) / STATE
                there.write_bytes(content)
                if here is None or _progress(load_state(there)) > _progress(here):
                    write_atomically(path, content)
                    return load_state(path)
        return here

    def keep(self, network: nn.Module, result: Mapping[str, Any], input_spec: InputSpec) -> None:
        """Keep the finished teacher; a bucket is waited for."""
        shutil.rmtree(self.network_folder, ignore_errors=True)  # of an attempt that ended before its result was written
        save_network(self.network_folder, network, model=self.model, input_spec=input_spec)
        text = (json.dumps(dict(result), indent=1) + "\n").encode()
        if self.bucket is not None:
            insist(partial(self._push, self.bucket, text), what="keeping the teacher")
        write_atomically(self.folder / "result.json", text)
        (self.state_file).unlink(missing_ok=True)

    def _push(self, bucket: Bucket, result: bytes) -> None:
        bucket.push(self.network_folder, "network")
        bucket.write("result.json", result)
        bucket.remove(STATE)

    def fetch(self) -> None:
        """Bring the finished teacher to this machine, if it is not here; a bucket is waited for."""
        bucket = self.bucket
        if bucket is not None:
            insist(partial(fetch_teacher, bucket, self.folder), what="fetching the teacher")

    def keep_latency(self, table: LatencyTable) -> None:
        """Keep the layers' times for all trials, of this start and of later ones."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "latency.json", (json.dumps(table.to_dict(), indent=1) + "\n").encode())

    def weights(self) -> dict[str, Any]:
        """The finished teacher's tensors as arrays, for processes to share."""
        builder = find_builder(self.model.name) if is_import_path(self.model.name) else None
        network = load_network(self.network_folder, builder=builder).network
        return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def _num_epochs(state: tuple[Tensors, dict[str, Any]]) -> int:
    return len(state[1]["epochs"])


def _progress(state: tuple[Tensors, dict[str, Any]]) -> tuple[int, int]:
    """How far training is, to compare states by: epochs, and batches of the next one."""
    midway = state[1].get("midway")
    return _num_epochs(state), 0 if midway is None else midway["place"]


def prepare_teacher(task: TeacherTask, data: ray.ObjectRef, *, told: Callable[[EpochProgress], None]) -> TeacherResult:
    """Give the search its teacher: the one it has, or one that is read or trained now.

    Args:
        task: what to do.
        data: reference to the arrays of a `DataSplits`.
        told: called after each epoch.

    Raises:
        StageFailure: if training diverges.
    """
    task.fetch()
    result = task.result()
    if result is not None:
        return result
    state = task.state()
    num_told = 0 if state is None else _num_epochs(state)  # by an earlier start
    try:
        with task.actors.placed() as options:
            # As options of the function, so that Ray ends a process that has used a card, and the card is free again.
            remote = ray.remote(max_retries=2, retry_exceptions=[RankLost], **options)(_run)
            for progress in remote.remote(task, data, (data,), num_told):
                told(EpochProgress.from_dict(ray.get(progress)))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, StageFailure | InputError):
            raise error.cause from None
        cause = f"{type(error.cause).__name__}: {first_line(error.cause)}"
        raise StageFailure(cause, stage="teacher") from error
    task.fetch()
    result = task.result()
    assert result is not None
    return result


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
    from trainables.layer_times import measure_layers

    network = build(task.model, num_classes=num_classes, in_channels=input_shape[0], seed=task.seed)
    network.to("cuda" if actors.num_gpus > 0 else "cpu")
    return measure_layers(network, input_shape, pruning=pruning, num_threads=actors.num_threads).to_dict()


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
        self._stage.step_for(seconds)


def _begun(task: TeacherTask, arrays: dict[str, Any]) -> tuple[nn.Module, DataSplits]:
    torch.set_num_threads(task.actors.num_threads)
    data = DataSplits.from_arrays(arrays).to(task.device)
    network = build(task.model, num_classes=data.num_classes, in_channels=data.in_channels, seed=task.seed)
    return network.to(task.device), data


def _stage(task: TeacherTask, network: nn.Module, data: DataSplits, ranks: Ranks) -> TeacherStage:
    return TeacherStage(
        network, recipe=task.recipe, data=data, augmentation=task.augmentation, seed=task.seed, ranks=ranks
    )


def _run(
    task: TeacherTask, arrays: dict[str, Any], shared: tuple[ray.ObjectRef], num_told: int
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
    values = result.to_dict()
    if task.measure_latency:
        from trainables.latency import measure  # slow to import, and seldom needed

        latency = measure(network, data.input_shape, batch_size=1, num_threads=task.actors.num_threads)
        values["latency_ms"] = latency.median_ms
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
                progress = stage.step_for(task.checkpoint_seconds)
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
