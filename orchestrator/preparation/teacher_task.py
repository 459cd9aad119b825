"""What a search knows of its teacher: how it comes by one, and its place on disk and in a bucket."""

import json
import logging
import math
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from torch import nn

from orchestrator.machines.rank_actors import RankActors
from orchestrator.searches.folder import read_teacher_result
from orchestrator.searches.layout import LATENCY, TEACHER_NETWORK, TEACHER_RESULT
from orchestrator.searches.places import fetch_teacher
from orchestrator.searches.reuse import StageFolder
from orchestrator.storage.answers import insist
from orchestrator.storage.bucket import Bucket
from orchestrator.storage.whole_files import write_atomically
from trainables.data_config import Augmentation
from trainables.errors import InputError, first_line
from trainables.files.checkpoint import load_network, save_network
from trainables.files.input_spec import InputSpec
from trainables.files.states import load_state, save_state
from trainables.identity import Identity
from trainables.imports import is_import_path
from trainables.model_config import ModelConfig
from trainables.networks.models import find_builder
from trainables.pruning.cost import LatencyTable
from trainables.recipe import Recipe
from trainables.results import TeacherResult
from trainables.tensors import Tensors

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
        timed_on: who measure its latency, as each level's is measured; `None` if nobody does.
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
    timed_on: RankActors | None
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
        return self.folder / TEACHER_NETWORK

    @property
    def state_file(self) -> Path:
        """The last checkpoint, while it is trained."""
        return self.folder / STATE

    def result(self) -> TeacherResult | None:
        """The finished teacher's figures, or `None` while there is none.

        Raises:
            InputError: if the file is damaged.
        """
        path = self.folder / TEACHER_RESULT
        return read_teacher_result(path) if path.exists() else None

    def latency(self) -> LatencyTable | None:
        """The times of its layers that the search's sizes are made of, or `None` while there are none.

        Raises:
            InputError: if the file is damaged.
        """
        path = self.folder / PurePath(LATENCY).name
        if not path.exists():
            return None
        try:
            return LatencyTable.from_dict(json.loads(path.read_text(encoding="utf-8")))
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
        write_atomically(self.folder / TEACHER_RESULT, text)
        (self.state_file).unlink(missing_ok=True)

    def _push(self, bucket: Bucket, result: bytes) -> None:
        bucket.push_for_certain(self.network_folder, TEACHER_NETWORK)
        bucket.write_for_certain(TEACHER_RESULT, result)
        bucket.remove(STATE)

    def fetch(self) -> None:
        """Bring the finished teacher to this machine, if it is not here; a bucket is waited for."""
        bucket = self.bucket
        if bucket is not None:
            insist(partial(fetch_teacher, bucket, self.folder), what="fetching the teacher")

    def keep_latency(self, table: LatencyTable) -> None:
        """Keep the layers' times for all trials, of this start and of later ones."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / PurePath(LATENCY).name, (json.dumps(table.to_dict(), indent=1) + "\n").encode())

    def weights(self) -> dict[str, Any]:
        """The finished teacher's tensors as arrays, for processes to share."""
        builder = find_builder(self.model.name) if is_import_path(self.model.name) else None
        network = load_network(self.network_folder, builder=builder).network
        return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def epochs_done(state: tuple[Tensors, dict[str, Any]]) -> int:
    """Epochs that a teacher's state has come to."""
    return len(state[1]["epochs"])


def _progress(state: tuple[Tensors, dict[str, Any]]) -> tuple[int, int]:
    """How far training is, to compare states by: epochs, and batches of the next one."""
    midway = state[1].get("midway")
    return epochs_done(state), 0 if midway is None else midway["place"]
