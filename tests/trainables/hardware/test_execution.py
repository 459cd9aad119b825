"""A step is the same however its operations reach the hardware."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from trainables.config import CascadeConfig
from trainables.datasets.data import DataSplits
from trainables.errors import InputError
from trainables.hardware.branches import PART_OF_SHARE, Branches
from trainables.hardware.execution import RecordedStep, require_compiler
from trainables.plan import StagePlan
from trainables.pruning.cost import count_params
from trainables.pruning.network_size import NetworkSize
from trainables.pruning_config import Pruning
from trainables.recipe import Execution, Recipe
from trainables.stages.cascade import CascadeStage

CONFIG = CascadeConfig(
    macs_kept=(0.5,),
    recipe=Recipe(epochs=4, batch_size=8, learning_rate=0.02, max_grad_norm=5.0),
    pruning=Pruning(num_prunings=2),
)
needs_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 40, 3, padding=1),
        nn.BatchNorm2d(40),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(40 * 4, 4),
    ).eval()


def stage_of(data: DataSplits, config: CascadeConfig, teacher: nn.Module | None = None) -> CascadeStage:
    teacher = (small_network() if teacher is None else teacher).to(data.train.images_NCHW.device)
    levels = tuple(range(1, config.num_levels + 1))
    return CascadeStage(
        teacher,
        plan=StagePlan(name="cascade", levels=levels, epochs=config.recipe.epochs, first_epoch=0),
        config=config,
        teacher_size=NetworkSize.count(teacher, data.input_shape),
        data=data,
        augmentation="crop-flip",
    )


def weights(stage: CascadeStage) -> dict[str, torch.Tensor]:
    return {
        f"{level.number}.{name}": tensor.float()
        for level in stage.levels
        for name, tensor in level.network.state_dict().items()
    }


def run(stage: CascadeStage) -> CascadeStage:
    while not stage.finished:
        stage.train_epoch()
    return stage


@pytest.mark.parametrize("execution", ["graph", "eager", "compile"])
def test_on_a_cpu_a_step_is_taken_as_it_is(execution: Execution) -> None:
    taken = []

    def step(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        taken.append((images, labels))
        return images.sum()

    recorded = RecordedStep(step, execution)
    images, labels = torch.ones(2, 3), torch.ones(2)
    assert [float(recorded(images, labels)) for _ in range(5)] == [6.0] * 5
    assert len(taken) == 5
    assert taken[-1][0] is images


def test_levels_that_have_their_sizes_are_compiled(data: DataSplits, monkeypatch: pytest.MonkeyPatch) -> None:
    """They learn what they learn without; before that, and where nobody asks, nothing is compiled."""
    compilations: list[int] = []

    def counting(network: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        compilations.append(count_params(network))
        # Traced, and differentiated ahead of time, as by `compiled`, but without the half minute in a C++ compiler.
        return torch.compile(network, dynamic=False, backend="aot_eager")

    monkeypatch.setattr("trainables.stages.joint.compiled", counting)
    plain = run(stage_of(data, CONFIG))
    assert compilations == []
    stage = stage_of(data, replace(CONFIG, recipe=replace(CONFIG.recipe, execution="compile")))
    stage.train_epoch()
    assert compilations == []  # on their way
    run(stage)
    assert compilations == [count_params(level.network) for level in stage.levels]
    for name, tensor in weights(stage).items():
        torch.testing.assert_close(tensor, weights(plain)[name], rtol=1e-3, atol=1e-4)


def test_nothing_is_compiled_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    require_compiler("graph")
    with pytest.raises(InputError, match="execution is 'compile', but there is no C\\+\\+ compiler 'no-such-compiler'"):
        require_compiler("compile")


@needs_card
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_recorded_step_is_the_step(data: DataSplits, optimizer: str, precision: str) -> None:
    """Through prunings, with a rate that moves, clipping, dropout and an average; epochs later weights still agree."""
    recipe = replace(CONFIG.recipe, optimizer=optimizer, precision=precision, ema=0.9)
    config = replace(CONFIG, recipe=recipe)
    on_card = data.to("cuda")
    eager = run(stage_of(on_card, replace(config, recipe=replace(recipe, execution="eager"))))
    recorded = run(stage_of(on_card, config))
    assert [level.kept["0"].tolist() for level in recorded.levels] == [
        level.kept["0"].tolist() for level in eager.levels
    ]
    for name, tensor in weights(recorded).items():
        torch.testing.assert_close(tensor, weights(eager)[name], rtol=2e-2, atol=2e-3)


@needs_card
def test_a_recorded_step_is_the_step_where_logits_are_remembered(data: DataSplits) -> None:
    config = replace(CONFIG, recipe=replace(CONFIG.recipe, epochs=4), teacher_views=2)
    eager = run(stage_of(data.to("cuda"), replace(config, recipe=replace(config.recipe, execution="eager"))))
    recorded = run(stage_of(data.to("cuda"), config))
    for name, tensor in weights(recorded).items():
        torch.testing.assert_close(tensor, weights(eager)[name], rtol=2e-2, atol=2e-3)


@needs_card
def test_a_recorded_step_learns_features_and_weighs_levels(data: DataSplits) -> None:
    config = replace(CONFIG, macs_kept=(0.7, 0.5), feature_weight=1.0, level_weight_growth=2.0)
    stages = []
    for execution in ("eager", "graph"):
        head = small_network()
        teacher = nn.Sequential(head[:3], nn.Conv2d(40, 40, 3, padding=1), *head[2:]).eval()
        recipe = replace(config.recipe, execution=execution)
        stages.append(run(stage_of(data.to("cuda"), replace(config, recipe=recipe), teacher)))
    eager, recorded = stages
    for level, other in zip(eager.levels, recorded.levels, strict=True):
        assert {name: kept.tolist() for name, kept in level.kept.items()} == {
            name: kept.tolist() for name, kept in other.kept.items()
        }
    for name, tensor in weights(recorded).items():
        torch.testing.assert_close(tensor, weights(eager)[name], rtol=2e-2, atol=2e-3)


@needs_card
def test_a_recorded_step_is_the_step_where_channels_come_back(data: DataSplits) -> None:
    pruning = replace(CONFIG.pruning, num_prunings=4, regrowth=0.5)
    config = replace(CONFIG, pruning=pruning, recipe=replace(CONFIG.recipe, epochs=8))
    eager = run(stage_of(data.to("cuda"), replace(config, recipe=replace(config.recipe, execution="eager"))))
    recorded = run(stage_of(data.to("cuda"), config))
    assert recorded.levels[0].kept["0"].tolist() == eager.levels[0].kept["0"].tolist()
    for name, tensor in weights(recorded).items():
        torch.testing.assert_close(tensor, weights(eager)[name], rtol=2e-2, atol=2e-3)


@needs_card
@pytest.mark.parametrize("saliency_loss", ["level", "labels"])
def test_levels_that_run_side_by_side_learn_what_they_learn_in_turn(
    data: DataSplits, monkeypatch: pytest.MonkeyPatch, saliency_loss: str
) -> None:
    """To the last bit, with dropout, micro-batches, and steps that do without the teacher."""
    recipe = replace(CONFIG.recipe, precision="bf16", accumulate=2)
    pruning = replace(CONFIG.pruning, saliency_loss=saliency_loss)
    config = replace(CONFIG, macs_kept=(0.8, 0.6, 0.4), recipe=recipe, pruning=pruning, teacher_every=2)
    stages = []
    parted: list[int] = []
    for share_of_card in (0.0, 1.0):
        monkeypatch.setattr(Branches, "share_of_card", share_of_card)
        joined = Branches.join

        def join(branches: Branches, joined: Callable[[Branches], None] = joined) -> None:
            parted.append(len(branches._running))
            joined(branches)

        with monkeypatch.context() as patched:
            patched.setattr(Branches, "join", join)
            stages.append(run(stage_of(data.to("cuda"), config)))
        assert max(parted) == (4 if share_of_card else 0)  # three levels and the teacher
    in_turn, side_by_side = map(weights, stages)
    assert in_turn.keys() == side_by_side.keys()
    for name, tensor in side_by_side.items():
        assert torch.equal(tensor, in_turn[name]), name


@needs_card
def test_parts_run_apart_in_a_record_where_they_keep_little_of_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []  # the stream of a part, and that of the step
    branches = Branches()

    def step(images: torch.Tensor) -> torch.Tensor:
        kept = []
        for number in range(3):
            with branches.part(number):
                kept.append(images * number)
                stream = torch.cuda.current_stream()
                branches.mark()
            seen.append((stream.stream_id, torch.cuda.current_stream().stream_id))
        branches.join()
        return torch.stack(kept).sum(0)

    images = torch.ones(2**20, device="cuda")
    whole = PART_OF_SHARE * torch.cuda.get_device_properties(0).total_memory
    for share_of_card, apart in ((3.1 * 2**22 / whole, True), (2.9 * 2**22 / whole, False)):
        monkeypatch.setattr(Branches, "share_of_card", share_of_card)
        branches = Branches()
        recorded = RecordedStep(step, "graph", branches)
        sums = [float((recorded(images * factor) / 2**20).sum()) for factor in (1, 2, 3, 4)]
        assert sums == [3.0, 6.0, 9.0, 12.0]
        assert len({part for part, _ in seen[-3:]}) == (3 if apart else 1)
        assert all((part != of_step) == apart for part, of_step in seen[-3:])
        assert all(part == of_step for part, of_step in seen[:6])  # one by one
        seen.clear()


@needs_card
def test_a_part_that_fails_while_it_is_recorded_is_told_by_its_own_error() -> None:
    branches = Branches()

    def step(images: torch.Tensor) -> torch.Tensor:
        with branches.part(0):
            told = images * 2
            if torch.cuda.is_current_stream_capturing():
                raise InputError("of the user's own")
        branches.join()
        return told

    recorded = RecordedStep(step, "graph", branches)
    images = torch.ones(3, device="cuda")
    recorded(images), recorded(images)
    with pytest.raises(InputError, match="of the user's own"):
        recorded(images)
    assert torch.equal(RecordedStep(lambda images: images * 2, "graph")(images), images * 2)  # the card is well


@pytest.mark.parametrize("kinds", [1, 2])
def test_what_parts_keep_decides_whether_they_run_apart(monkeypatch: pytest.MonkeyPatch, kinds: int) -> None:
    held = [100]  # bytes of a card of 1600 bytes, of which a hundred may be kept
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: held[0])
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=1600))
    monkeypatch.setattr(Branches, "share_of_card", 1.0)
    branches = Branches(kinds=kinds)
    with branches.weighed():
        for number, kept in ((0, 0), (1, 60), (2, 40)):
            with branches.part(number):
                held[0] += kept
                assert branches.mark() is None
                held[0] -= kept
        branches.join()
    with branches.apart():
        assert branches._runs_apart == (kinds == 1)
    monkeypatch.setattr(Branches, "share_of_card", 0.5)
    with branches.apart():
        assert not branches._runs_apart


@needs_card
def test_a_batch_of_another_shape_is_not_replayed() -> None:
    total = torch.zeros(1, device="cuda")

    def step(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        total.add_(images.sum())
        return total * 1.0

    recorded = RecordedStep(step, "graph")
    for number in range(6):
        images = torch.full((4 if number != 4 else 3,), float(number), device="cuda")
        recorded(images, images)
    assert float(total) == 4 * (0 + 1 + 2 + 3 + 5) + 3 * 4


@needs_card
def test_another_thread_may_pin_memory_while_a_step_is_recorded() -> None:
    pinned: list[torch.Tensor] = []

    def pin() -> None:
        pinned.append(torch.ones(2**22).pin_memory())

    def step(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if torch.cuda.is_current_stream_capturing():
            thread = threading.Thread(target=pin)
            thread.start()
            thread.join()
        return images * 2

    recorded = RecordedStep(step, "graph")
    images = torch.ones(3, device="cuda")
    assert [recorded(images * number, images).tolist() for number in range(4)] == [[2.0 * n] * 3 for n in range(4)]
    assert len(pinned) == 1


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs a torch with oneDNN")
@pytest.mark.parametrize(("kept", "compiled"), [(None, "once"), ("1024", "again")])
def test_a_cpu_compiles_its_kernels_once_unless_told_to_keep_fewer(kept: str | None, compiled: str) -> None:
    environment = {name: value for name, value in os.environ.items() if "PRIMITIVE_CACHE" not in name}
    if kept is not None:
        environment["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = kept
    job = [sys.executable, str(Path(__file__).with_name("kernels_job.py"))]
    done = subprocess.run(
        job,
        env=environment | {"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert (done.stdout.count("create:cache_hit") + done.stdout.count("create:cache_miss")) > 1024
    assert ("create:cache_miss" in done.stdout) == (compiled == "again")
