"""A cascade as a trial of Ray Tune: the only file of this package that knows Ray.

A trial may have several ranks: the Tune actor is the first of them and leads the others (`followers.TrialFollower`).
"""

import hashlib
import json
import math
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray
import torch
from ray import tune
from ray.tune.result import SHOULD_CHECKPOINT
from torch import nn

from trainables.config import CascadeConfig
from trainables.data_config import Augmentation
from trainables.datasets.data import DataSplits
from trainables.errors import InputError, MachineError, StageFailure
from trainables.files.checkpoint import save_network
from trainables.files.input_spec import InputSpec
from trainables.files.states import load_state, save_state
from trainables.hardware import processor
from trainables.hardware.ranks import Crew, RanksDiffer, Solo
from trainables.model_config import ModelConfig
from trainables.networks.given_weights import versioned
from trainables.networks.models import build
from trainables.pruning.cost import LatencyTable
from trainables.tensors import Tensors
from trainables.trial import CascadeTrial, FinishedStages

STATE_FILE = "state.safetensors"


class TrialStore(Protocol):
    """Where trials on machines that share no folder keep what is to outlive their machine; see `trial_key`."""

    def state(self, key: str) -> tuple[Tensors, dict[str, Any]] | None:
        """The newest checkpoint of a trial, or `None`."""

    def keep_state(self, key: str, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Keep a checkpoint."""

    def keep_network(self, folder: Path) -> Path:
        """Keep the network of a level; it is safe when this returns the folder that it lies in then."""

    def told_to_stop(self, key: str) -> str | None:
        """Why a trial is to end before its next epoch, if it is."""


def trial_key(number: int, cascade: Mapping[str, Any]) -> str:
    """A trial's name in a `TrialStore`: its number, and the digest of its cascade as a dictionary."""
    text = json.dumps(cascade, sort_keys=True)
    return f"{number:05d}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialSettings:
    """What all trials of a search share.

    Attributes:
        model: the teacher's network.
        augmentation: what training batches go through.
        candidates: folder into which the networks of finished trials go.
        num_threads: CPU threads of a trial.
        num_gpus: that Ray assigned; with 0 it runs on a processor, and a fraction is its share of a card.
        measure_latency: measure each level's latency when the trial ends.
        finished_stages: where stages that are done are found and kept; `None` computes each of them.
        origin: what teacher, data and code come to, as `identity.trial_origin` gives it.
        stops: folder in which a trial finds a `stop_note` when it is to end before its time; `None` looks for none.
        latency: the layers' times that sizes in latency take.
        crew: starts the other ranks of a trial, given these settings; `None` for one that has none.
        store: where machines that share no folder keep checkpoints and networks, and look for word to stop; `None`
            where `candidates` and `stops` are shared, and Tune keeps the checkpoints.
        checkpoint_seconds: after about which an epoch that is not done leaves a checkpoint.
    """

    model: ModelConfig
    augmentation: Augmentation
    candidates: str
    num_threads: int
    num_gpus: float
    measure_latency: bool
    finished_stages: FinishedStages | None = None
    origin: str = ""
    stops: str | None = None
    latency: LatencyTable | None = None
    crew: "Callable[[TrialSettings], Crew] | None" = None
    store: TrialStore | None = None
    checkpoint_seconds: float = math.inf


def stop_note(stops: Path | str, number: int) -> Path:
    """The file that tells a trial to end before its next epoch; its text is the reason."""
    return Path(stops) / f"stop-{number:05d}"


def build_teacher(model: ModelConfig, data: DataSplits, weights: dict[str, Any]) -> nn.Module:
    """The teacher from arrays that processes share; its weights are copied."""
    network = build(model, num_classes=data.num_classes, in_channels=data.in_channels)
    network.load_state_dict(versioned({name: torch.tensor(array) for name, array in weights.items()}, network))
    return network


class CascadeTrainable(tune.Trainable):  # type: ignore[misc]
    """One cascade; `step` is one epoch of its current stage, or a part of a long one.

    The configuration holds `trial` (its number), `cascade` (a `CascadeConfig` as a dictionary) and `state` (a file to
    go on from, or `None`). A result holds `progress`, a list of epochs (none after a part of one), `epochs_done`,
    `reused` and `standing`; at the end also `results` and `networks`, or `failure`, or `unfit` alone where the machine
    cannot have what the trial needs, and not the trial is to blame. A trial that found a `stop_note` ends
    with `stopped`, the reason, and with the levels that have reached their sizes.
    """

    _unfit: MachineError | None = None

    def setup(
        self,
        config: dict[str, Any],
        teacher: dict[str, Any] | None = None,
        data: dict[str, Any] | None = None,
        settings: TrialSettings | None = None,
    ) -> None:
        """Take what the trials share, which Ray hands over by reference, and start the first trial.

        Raises:
            FileNotFoundError: if this machine does not see the folder of the search.
        """
        assert teacher is not None
        assert data is not None
        assert settings is not None
        search = Path(settings.candidates).parent
        if settings.store is not None:
            search.mkdir(parents=True, exist_ok=True)
        elif not search.is_dir():  # a machine that has joined since the search looked at all of them
            raise FileNotFoundError(
                f"{platform.node()} does not see {search}; all machines must mount the storage folder"
            )
        processor.prepare(settings.num_threads, share_of_card=settings.num_gpus)
        self._settings = settings
        device = torch.device("cuda" if settings.num_gpus else "cpu")
        self._data = DataSplits.from_arrays(data).to(device)
        self._teacher = build_teacher(settings.model, self._data, teacher).to(device)
        # Results say where they were made, so that a node on which trials fail is known by those on which they do not.
        self._node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else None
        self._crew = self._made_crew()
        self._start(config)

    def _made_crew(self) -> Crew:
        return Solo() if self._settings.crew is None else self._settings.crew(self._settings)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start another trial on the same actor: a fresh cascade, with nothing of the last one."""
        self._release()
        self._start(new_config)
        return True

    def _release(self) -> None:
        """Leave what is not done to other trials."""
        if self._unfit is None:
            self._trial.release()

    def _start(self, config: dict[str, Any]) -> None:
        self._unfit = None
        if self._crew.closed:  # the trial before met an image that cannot be read
            self._crew = self._made_crew()
        self._number = config["trial"]
        self._cascade = config["cascade"]
        self._key = trial_key(config["trial"], config["cascade"])
        try:
            self._begin(config)
        except MachineError as error:  # which the first step tells
            self._unfit = error

    def _begin(self, config: dict[str, Any]) -> None:
        self._trial = CascadeTrial(
            self._teacher,
            config=CascadeConfig.from_dict(config["cascade"]),
            data=self._data,
            augmentation=self._settings.augmentation,
            finished_stages=self._settings.finished_stages,
            origin=self._settings.origin,
            latency=self._settings.latency,
            ranks=self._crew.ranks,
        )
        state = None if config["state"] is None else load_state(Path(config["state"]))
        if self._settings.store is not None:
            state = self._settings.store.state(self._key)
        if state is not None:
            self._trial.load_state(*state)
        self._tell_crew()

    def _tell_crew(self) -> None:
        """Have the other ranks where this one is: their next step is the same."""
        if self._crew.ranks.size > 1:
            tensors, values = self._trial.state()
            arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
            with self._crew.doing("begin", self._cascade, (arrays, values)):
                pass

    def step(self) -> dict[str, Any]:
        """Take over stages that are done already, and train one epoch or as much of it as lies between two checkpoints.

        Or end, if that is what the trial was told.

        A stage that fails, or an image that cannot be read, ends the trial with the reason, since trying again would
        fail again.
        """
        if self._unfit is not None:
            return self._elsewhere(self._unfit)
        reason = self._told_to_stop()
        if reason is not None and not self._trial.finished:
            return self._stop(reason)
        epochs = [epoch.to_dict() for epoch in self._trial.take_over()]
        if epochs:
            self._tell_crew()
        if not self._trial.finished:  # a checkpoint of the last epoch may be all that a killed driver left
            try:
                with self._crew.doing("step", self._settings.checkpoint_seconds):
                    trained = self._trial.train_for(self._settings.checkpoint_seconds)
            except MachineError as error:
                return self._elsewhere(error)
            except (StageFailure, InputError, RanksDiffer) as failure:
                self._trial.release()
                return {"progress": epochs, "failure": str(failure), "done": True} | self._epochs()
            if trained is not None:
                epochs.append(trained.to_dict())
        result = {"progress": epochs, "standing": self._trial.standing.to_dict(), "done": self._trial.finished}
        result |= {"node": self._node} | self._epochs()
        # Of a trial that has ended nothing is to go on.
        if self._settings.store is None:
            result[SHOULD_CHECKPOINT] = not self._trial.finished
        elif not self._trial.finished:
            self._settings.store.keep_state(self._key, *self._trial.state())
        return result | self._levels() if self._trial.finished else result

    def _told_to_stop(self) -> str | None:
        if self._settings.stops is None:
            return None
        if self._settings.store is not None:
            return self._settings.store.told_to_stop(self._key)
        note = stop_note(self._settings.stops, self._number)
        return note.read_text(encoding="utf-8") if note.exists() else None

    def _stop(self, reason: str) -> dict[str, Any]:
        try:
            with self._crew.doing("stop"):
                self._trial.stop()
        except MachineError as error:
            return self._elsewhere(error)
        except (StageFailure, InputError, RanksDiffer) as failure:
            return {"progress": [], "failure": str(failure), "done": True} | self._epochs()
        result = {"progress": [], "stopped": reason, "done": True, SHOULD_CHECKPOINT: False}
        return result | self._epochs() | self._levels()

    def _elsewhere(self, error: MachineError) -> dict[str, Any]:
        """End here, to go on from the last checkpoint on a machine that has what the trial needs."""
        self._release()
        return {"progress": [], "unfit": {"node": self._node, "reason": str(error)}, "done": True}

    def _epochs(self) -> dict[str, Any]:
        """How many epochs of the trial are done, and which of them it did not have to train."""
        return {"epochs_done": self._trial.epochs_done, "reused": self._trial.reused.to_dict()}

    def _levels(self) -> dict[str, Any]:
        """What the trial came to."""
        return {
            "networks": {level: self._save(level, network) for level, network in self._trial.networks.items()},
            "results": [self._measured(level.to_dict()) for level in self._trial.results],
        }

    def _save(self, level: int, network: nn.Module) -> str:
        """Write a level's network; name of its folder among the candidates."""
        folder = Path(self._settings.candidates) / f"{self._number}-{level}"
        if folder.exists():  # of an earlier attempt at this very trial, which ended before it was told
            shutil.rmtree(folder)
        save_network(folder, network, model=self._settings.model, input_spec=InputSpec.of(self._data))
        if self._settings.store is not None:
            folder = self._settings.store.keep_network(folder)
        return folder.name

    def _measured(self, result: dict[str, Any]) -> dict[str, Any]:
        if not self._settings.measure_latency:
            return result
        from trainables.hardware.latency import measure  # slow to import, and seldom needed

        network = self._trial.networks[result["level"]]
        latency = measure(network, self._data.input_shape, batch_size=1, num_threads=self._settings.num_threads)
        return result | {"latency_ms": latency.median_ms}

    def cleanup(self) -> None:
        """Leave what is not done to other trials, and let the other ranks go."""
        self._release()
        self._crew.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write all that the next epoch depends on."""
        save_state(Path(checkpoint_dir) / STATE_FILE, *self._trial.state())

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Go on from such a checkpoint."""
        if self._unfit is None:
            self._trial.load_state(*load_state(Path(checkpoint_dir) / STATE_FILE))
            self._tell_crew()
