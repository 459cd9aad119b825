"""Train one arm at one size with one seed."""

import dataclasses
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import torch
import torch_pruning
from torch import nn

from orchestrator.evidence.narrow import even_network
from orchestrator.evidence.peer import pruned, require_floors_held
from orchestrator.evidence.plan import StudyPlan
from orchestrator.evidence.results import Found, RunResult
from orchestrator.evidence.settings import Arm, Run
from orchestrator.evidence.work import cascade_work, epochs_within, training_work
from orchestrator.policies.looks import or_relax
from search_spaces.naming import named
from trainables.config import CascadeConfig
from trainables.datasets.data import DataSplits
from trainables.datasets.images import num_batches
from trainables.errors import InputError, StageFailure, first_line
from trainables.identity import digest, engine_digest, sources_of
from trainables.networks.given_weights import load_weights
from trainables.networks.models import build, frozen_parameters
from trainables.plain import require
from trainables.plan import StagePlan
from trainables.pruning.channels import ChannelMap
from trainables.pruning.contracts import check_contracts
from trainables.pruning.cost import FloatVector, SizeModel, count_macs, macs_model
from trainables.pruning.network_size import NetworkSize
from trainables.pruning.possible_sizes import nearest_of_missed, possible_sizes, smallest_target
from trainables.pruning.saliency import CRITERIA, find_criterion
from trainables.pruning_config import Pruning
from trainables.stages.cascade import CascadeStage
from trainables.stages.evaluation import evaluate
from trainables.stages.features import find_boundaries
from trainables.stages.objective import Objective
from trainables.stages.remembered import require_room_for_logits
from trainables.stages.teacher import require_trainable
from trainables.trial import CascadeTrial

Tick = Callable[[], None]
"""Called after every epoch; may raise to give the run up."""
_MANY = 10_000  # epochs, where their number is not known yet
_DECIDING = ("arms.py", "narrow.py", "peer.py", "work.py")  # what the arms come to depends on the code of these


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Material:
    """What all runs of a study share.

    Attributes:
        plan: the study.
        teacher: trained, on the device to train on.
        data: on the same device.
        test: the same, with the test images where the validation images are; looked at when a run is over.
    """

    plan: StudyPlan
    teacher: nn.Module
    data: DataSplits
    test: DataSplits

    @property
    def device(self) -> torch.device:
        """Where it is trained."""
        return self.data.train.labels_N.device

    @property
    def teacher_size(self) -> NetworkSize:
        """What sizes are fractions of."""
        return NetworkSize.count(self.teacher, self.data.input_shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trained:
    config: CascadeConfig
    found: tuple[Found, ...]
    epochs: int
    work: float


def run_arm(run: Run, material: Material, tick: Tick = lambda: None) -> RunResult:
    """Train a run to its end; one that fails says why."""
    arm = material.plan.arms[run.arm]
    started = time.perf_counter()
    trained, failure = None, None
    try:
        trained = _METHODS[arm.method](run, arm, material, tick)
    except (StageFailure, InputError) as error:
        failure = first_line(error)
    return RunResult(
        key=run.key,
        arm=run.arm,
        size=run.size,
        seed=run.seed,
        learning_rate=run.learning_rate,
        purpose=run.purpose,
        found=() if trained is None else trained.found,
        epochs=0 if trained is None else trained.epochs,
        work=0.0 if trained is None else trained.work,
        seconds=time.perf_counter() - started,
        device=device_name(material.device),
        versions=versions(),
        config={} if trained is None else trained.config.to_dict(),
        failure=failure,
    )


def versions() -> dict[str, str]:
    """Of what decides results; beside the engine's code that of arms that do without a cascade."""
    sources = sources_of(Path(__file__).parent)
    return {
        "torch": torch.__version__,
        "torch_pruning": torch_pruning.__version__,
        "engine": engine_digest(),
        "arms": digest({name: sources[name] for name in _DECIDING}),
    }


def device_name(device: torch.device) -> str:
    """The name of a card, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def check_study(plan: StudyPlan, data: DataSplits) -> None:
    """See that every arm can be trained: the network, its contracts, criteria, recipes, sizes, and the budget.

    Raises:
        InputError: naming what is wrong, and the first arm for which it is.
    """
    network = build(plan.model, num_classes=data.num_classes, in_channels=data.in_channels)
    if plan.model.weights is None:
        require_trainable(network)
    else:
        load_weights(network, Path(plan.model.weights))
    Objective.of(plan.teacher, data)
    macs = count_macs(network, data.input_shape)
    found: dict[Pruning, _Prunable] = {}
    for name, arm in plan.arms.items():
        for size in plan.sizes_of(arm):
            run = plan.run(name, size, 0, 0.05, "measured")
            config = _config(run, arm, plan, _MANY)
            with named(f"arms.{name} at size {size:g}: "):
                Objective.of(config.recipe, data, non_target_weight=config.non_target_weight)
                if arm.method == "torch-pruning":
                    require_floors_held(config.pruning)
                find_criterion(config.pruning.saliency)
                epochs = _planned_epochs(run, arm, plan, len(data.train))
                require_room_for_logits(_config(run, arm, plan, epochs), data)
                alike = _alike(config.pruning)
                if alike not in found:
                    found[alike] = _Prunable.check(network, data, alike)
                prunable = found[alike]
                if config.feature_weight > 0:
                    find_boundaries(network, prunable.channel_map, data.input_shape)
                least = smallest_target(prunable.sizes, prunable.channel_map, config.pruning)
                require(
                    least <= size * macs,
                    f"a size is {size:g}, but no network below {least / macs:.2g} of the teacher's MACs can be had; "
                    f"ask for more{or_relax(config.pruning)}",
                )
                if arm.method in ("cascade", "one-cascade"):
                    _check_gaps(config, prunable.possible, macs)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Prunable:
    """A network that keeps the contracts: its channels, its sizes, and all of these where channels are few."""

    channel_map: ChannelMap
    sizes: SizeModel
    possible: FloatVector | None

    @classmethod
    def check(cls, network: nn.Module, data: DataSplits, pruning: Pruning) -> "_Prunable":
        findings = check_contracts(network, data.input_shape, pruning=pruning, criteria=(pruning.saliency,))
        sizes = macs_model(network, findings.channel_map, data.input_shape)
        possible = possible_sizes(sizes, findings.channel_map, pruning)
        return cls(channel_map=findings.channel_map, sizes=sizes, possible=possible)


def _alike(pruning: Pruning) -> Pruning:
    """One for all whose contracts and sizes are the same; only the user's own criteria are tried."""
    return Pruning(
        saliency=Pruning().saliency if pruning.saliency in CRITERIA else pruning.saliency,
        round_to=pruning.round_to,
        min_channels=pruning.min_channels,
        floors=pruning.floors,
        keep=pruning.keep,
    )


def _check_gaps(config: CascadeConfig, possible: FloatVector | None, macs: int) -> None:
    for level, asked in enumerate(config.macs_kept, start=1):
        nearest = nearest_of_missed(possible, asked * macs)
        if nearest is not None:
            raise InputError(
                f"macs_kept of level {level} would be {asked:.4g}, but whole channels come no nearer than "
                f"{nearest / macs:.4g}, as there are few of them; give another size, or other assistants_at"
            )


def _planned_epochs(run: Run, arm: Arm, plan: StudyPlan, num_images: int) -> int:
    config = _config(run, arm, plan, _MANY)
    if arm.method in ("from-scratch", "torch-pruning"):
        return epochs_within(plan.budget, lambda epochs: training_work(run.size, epochs, config))
    steps = num_batches(num_images, config.recipe.batch_size)
    return epochs_within(
        plan.budget,
        lambda epochs: cascade_work(_config(run, arm, plan, epochs), steps),
        least=config.num_levels if config.schedule == "sequential" else 1,
        share=len(plan.sizes) if arm.method == "one-cascade" else 1.0,
        recovery=config.num_epochs - config.recipe.epochs,
    )


def _cascade(run: Run, arm: Arm, material: Material, tick: Tick) -> _Trained:
    plan, data = material.plan, material.data
    epochs = _planned_epochs(run, arm, plan, len(data.train))
    config = _config(run, arm, plan, epochs)
    trial = CascadeTrial(material.teacher, config=config, data=data, augmentation=plan.data.augmentation)
    for _ in trial.run():
        tick()
    found = tuple(
        Found.of(result, evaluate(trial.networks[result.level], material.test).accuracy) for result in trial.results
    )
    work = cascade_work(config, num_batches(len(data.train), config.recipe.batch_size))
    return _Trained(config=config, found=found, epochs=config.num_epochs, work=work)


def _from_scratch(run: Run, arm: Arm, material: Material, tick: Tick) -> _Trained:
    network = even_network(
        material.plan.model,
        num_classes=material.data.num_classes,
        input_shape=material.data.input_shape,
        size=run.size,
        seed=run.seed,
        pruning=_config(run, arm, material.plan, _MANY).pruning,
    )
    return _one_network(network.to(material.device), run, arm, material, tick)


def _torch_pruning(run: Run, arm: Arm, material: Material, tick: Tick) -> _Trained:
    cut = pruned(
        material.teacher,
        arm,
        _config(run, arm, material.plan, 1),
        material.data,
        target=run.size * material.teacher_size.macs,
    )
    return _one_network(cut, run, arm, material, tick, frozen=frozen_parameters(material.teacher))


def _one_network(  # noqa: PLR0913
    network: nn.Module, run: Run, arm: Arm, material: Material, tick: Tick, *, frozen: Collection[str] = ()
) -> _Trained:
    """Train a network that has its size, by the engine that trains levels, with all of the budget."""
    plan, data = material.plan, material.data
    size = count_macs(network, data.input_shape) / material.teacher_size.macs
    config = _config(run, arm, plan, _MANY)
    epochs = epochs_within(plan.budget, lambda epochs: training_work(size, epochs, config))
    config = dataclasses.replace(_config(run, arm, plan, epochs), macs_kept=(size,))
    stage = CascadeStage(
        material.teacher,
        start=network,
        frozen_parameters=frozen,
        plan=StagePlan(name="recovery-1", levels=(1,), epochs=epochs, first_epoch=0, kind="recovery"),
        config=config,
        teacher_size=material.teacher_size,
        data=data,
        augmentation=plan.data.augmentation,
    )
    while not stage.finished:
        stage.train_epoch()
        tick()
    (result,) = stage.results
    found = Found.of(result, evaluate(stage.levels[0].network, material.test).accuracy)
    work = training_work(size, epochs, config)
    return _Trained(config=config, found=(found,), epochs=epochs, work=work)


def _config(run: Run, arm: Arm, plan: StudyPlan, epochs: int) -> CascadeConfig:
    return plan.cascade_of(arm, run.size, seed=run.seed, learning_rate=run.learning_rate, epochs=epochs)


_METHODS: dict[str, Callable[[Run, Arm, Material, Tick], _Trained]] = {
    "cascade": _cascade,
    "one-cascade": _cascade,
    "from-scratch": _from_scratch,
    "torch-pruning": _torch_pruning,
}
