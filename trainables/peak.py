"""What a trial takes of a card at the most, measured on one: torch's memory, and what a process takes besides.

The beginning of a trial is run, as the trial would run it, while a second process looks at how much of the card is
free. A trial takes most in its first steps, while its levels still keep everything; what it takes later, as narrower
levels lie in memory in other pieces, is what `MARGIN` is for.
"""

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn

from trainables.config import CascadeConfig
from trainables.data_config import Augmentation
from trainables.datasets.data import DataSplits
from trainables.datasets.images import num_batches
from trainables.hardware.branches import Branches
from trainables.pruning.cost import LatencyTable
from trainables.stages.evaluation import EVALUATION_BATCH
from trainables.stages.remembered import remembered_bytes
from trainables.trial import CascadeTrial

MARGIN = 1.2
"""How many times what was measured each of several trials on a card may take."""

# Of each kind of step: two one by one, the one that is recorded, and one that is replayed.
_OF_A_KIND = 4

_ONLOOKER = "import sys, torch\nfor _ in sys.stdin: print(torch.cuda.mem_get_info()[0], flush=True)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Peak:
    """Bytes of a card that a trial takes.

    Attributes:
        torch_bytes: the most that torch held at once, for tensors and in reserve.
        other_bytes: what the process took besides: the card's context, kernels, records of steps.
        usable_bytes: what the card has for trials: all of it, but for what other processes held.
    """

    torch_bytes: int
    other_bytes: int
    usable_bytes: int

    @classmethod
    def of(cls, *, free: tuple[int, int, int], held: int, most_held: int, card_bytes: int) -> "Peak":
        """What three looks at the card say.

        Args:
            free: bytes of the card that were free before this process took any, when it had a context and nothing
                else, and at the end; the onlooker's context is not free in any of them, and is as large as this one's.
            held: what torch held at the end.
            most_held: the most that it held.
            card_bytes: of the whole card.
        """
        before, begun, end = free
        context = max(0, before - begun)
        other = max(context, before - end - held)  # if somebody else left meanwhile, it is the context at the least
        return cls(torch_bytes=most_held, other_bytes=other, usable_bytes=min(card_bytes, end + held + other + context))

    @property
    def total_bytes(self) -> int:
        """All that the process takes."""
        return self.torch_bytes + self.other_bytes

    @property
    def num_trials(self) -> int:
        """Trials that fit into the card at the same time with the margin, at least 1."""
        return max(1, int(self.usable_bytes / (MARGIN * self.total_bytes)))


def measure_peak(
    teacher: nn.Module,
    cascade: CascadeConfig,
    data: DataSplits,
    *,
    augmentation: Augmentation = "none",
    latency: LatencyTable | None = None,
) -> Peak:
    """Measure what a trial takes of the first card that this process sees; nothing else should start there meanwhile.

    Its levels run in turn, here and in this process from then on: what they take more side by side is bounded by a
    trial's share of the card, which is not known yet, and within the margin.

    Args:
        teacher: as a trial gets it, on the CPU; it is moved to the card.
        cascade: what is trained.
        data: all images, on the CPU.
        augmentation: what training batches go through.
        latency: the layers' times that sizes in latency take.

    Raises:
        RuntimeError: if this process has used a card before, as it cannot be seen then what that took; or no second
            process can be started.
        torch.OutOfMemoryError: if the trial does not fit into the card.
        StageFailure: if the cascade cannot be pruned.
    """
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        raise RuntimeError("this process has used a card before; measure in a fresh one")
    Branches.share_of_card = 0.0
    with _onlooker() as free_bytes:
        before = free_bytes()
        card_bytes = torch.cuda.mem_get_info()[1]  # the first call, which makes the context
        begun = free_bytes()
        # Of the few images of a rehearsal little is remembered.
        logits = torch.empty(remembered_bytes(cascade, data), dtype=torch.uint8, device="cuda")
        trial = rehearse(teacher.to("cuda"), cascade, data.to("cuda"), augmentation=augmentation, latency=latency)
        torch.cuda.synchronize()
        peak = Peak.of(
            free=(before, begun, free_bytes()),
            held=torch.cuda.memory_reserved(),
            most_held=torch.cuda.max_memory_reserved(),
            card_bytes=card_bytes,
        )
        del trial, logits  # what they hold was to be seen
    return peak


def rehearse(
    teacher: nn.Module,
    cascade: CascadeConfig,
    data: DataSplits,
    *,
    augmentation: Augmentation = "none",
    latency: LatencyTable | None = None,
) -> CascadeTrial:
    """Run the beginning of a trial: some steps, the first of its prunings, some steps more, a batch of validation.

    Args:
        teacher: on the device to train on.
        cascade: what is trained; batch, schedule and prunings are its own.
        data: all images, on the same device.
        augmentation: what training batches go through.
        latency: the layers' times that sizes in latency take.

    Returns:
        The trial as it is then.

    Raises:
        StageFailure: if the cascade cannot be pruned.
    """
    batch_size = cascade.recipe.batch_size
    # One step less than to the second pruning, so that each kind of step is recorded when the card is looked at.
    num_steps = 2 * _between_prunings(cascade) - 1
    steps = min(num_steps, num_batches(len(data.train), batch_size))
    few = replace(data, train=data.train.first(steps * batch_size), val=data.val.first(EVALUATION_BATCH))
    remembers = remembered_bytes(cascade, data) > 0
    config = replace(_beginning(cascade, steps, num_steps), teacher_views=1 if remembers else None)
    trial = CascadeTrial(teacher, config=config, data=few, augmentation=augmentation, latency=latency)
    for _ in range(math.ceil(num_steps / steps)):
        trial.train_epoch()
    return trial


def _between_prunings(cascade: CascadeConfig) -> int:
    """Steps from one pruning of a rehearsal to the next; those that ask the teacher are a kind of their own."""
    return _OF_A_KIND * min(2, cascade.teacher_every)


def _beginning(cascade: CascadeConfig, steps_per_epoch: int, num_steps: int) -> CascadeConfig:
    """The same cascade with epochs so short that its prunings come early, one every few steps, and so many more steps.

    Nothing that takes memory changes: only levels that have their sizes are compiled, which is later, and a later stage
    trains smaller levels.
    """
    ramp = _between_prunings(cascade) * cascade.pruning.num_prunings
    epochs = math.ceil(ramp / steps_per_epoch) + math.ceil(num_steps / steps_per_epoch)
    recipe = replace(
        cascade.recipe,
        epochs=epochs * (cascade.num_levels if cascade.schedule == "sequential" else 1),
        learning_rate=1e-4,
        class_weights="none",  # of few images some classes may have none
        execution="graph" if cascade.recipe.execution == "compile" else cascade.recipe.execution,
    )
    pruning = replace(cascade.pruning, ramp_fraction=ramp / (epochs * steps_per_epoch))
    return replace(
        cascade,
        recipe=recipe,
        pruning=pruning,
        teacher_every=min(2, cascade.teacher_every),
        epoch_growth=1.0,
        recovery_epochs=0,
    )


@contextmanager
def _onlooker() -> Iterator[Callable[[], int]]:
    """A process that says whenever it is asked how many bytes of the card are free."""
    with subprocess.Popen(
        [sys.executable, "-c", _ONLOOKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        asked, answers = process.stdin, process.stdout
        assert asked is not None
        assert answers is not None

        def free_bytes() -> int:
            asked.write("\n")
            asked.flush()
            answer = answers.readline()
            if not answer:
                raise RuntimeError("the process that looks at the card has ended")
            return int(answer)

        try:
            yield free_bytes
        finally:
            process.kill()
