"""One step of levels that share weights: each learns from what is larger, and all of them move θ together."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, get_args

import torch
from torch import nn

from trainables.config import CascadeConfig
from trainables.datasets.data import DataSplits
from trainables.hardware.branches import Branches
from trainables.hardware.execution import Forward, RecordedStep, compiled, weakly
from trainables.hardware.precision import autocast
from trainables.hardware.ranks import ALONE, Ranks
from trainables.hardware.whole_batch import whole_batch
from trainables.pruning.levels import Level, SharedWeights
from trainables.pruning.schedule import LevelPruner
from trainables.pruning.views import Cuts
from trainables.stages.batches import Part, micro_batches, require_parts
from trainables.stages.features import Maps, attention_distance, attention_maps, find_boundaries
from trainables.stages.objective import Objective, for_losses
from trainables.stages.sandwich import leaves_out
from trainables.stages.weights import TrainedWeights
from trainables.tensors import Tensors, prefixed

Way = Literal["asked", "given", "alone"]
"""How a step comes by what the frozen network says of its batch: it is asked; its logits are given; or not at all, so
that what would learn from it learns from the labels."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Answer:
    """What a network says of some images.

    Attributes:
        logits_NK: class scores, float32 or wider.
        maps: attention maps; none where features are not learnt.
        moment: at which a card has computed it, where others may ask before.
    """

    logits_NK: torch.Tensor
    maps: Maps = field(default_factory=dict)
    moment: torch.cuda.Event | None = None

    def detached(self) -> "Answer":
        """The same, through which no gradient flows."""
        maps = {layer: map_NP.detach() for layer, map_NP in self.maps.items()}
        return replace(self, logits_NK=self.logits_NK.detach(), maps=maps)


Answers = Sequence[Answer | None]
"""What a network says of each part of a batch; `None` where nothing is learnt from it."""


class JointStep:
    """Takes optimiser steps on the weighted sum of the levels' losses.

    Attributes:
        weights: θ, but for what is frozen, and what levels have for themselves.
        taking_part: levels that the next step trains; of the others it leaves out losses, gradients and saliency.
    """

    def __init__(
        self,
        frozen_network: nn.Module,
        shared: SharedWeights,
        pruners: Sequence[LevelPruner],
        *,
        config: CascadeConfig,
        data: DataSplits,
        ranks: Ranks = ALONE,
    ) -> None:
        """Prepare it.

        Args:
            frozen_network: what the first level, or each, learns from.
            shared: θ.
            pruners: of the levels, the largest first.
            config: of the whole cascade.
            data: that the losses are for.
            ranks: who take each step together.

        Raises:
            InputError: if the recipe does not fit the classes or the ranks, or there are no features to learn.
        """
        require_parts(config.recipe, num_train=len(data.train), ranks=ranks.size, section="recipe")
        parameters = {name: p for name, p in shared.network.named_parameters(prefix="shared") if p.requires_grad}
        for pruner in pruners:
            level = pruner.level
            parameters |= {f"level-{level.number}.{name}": p for name, p in level.private.items()}
        self.weights = TrainedWeights(parameters, config.recipe)
        self.taking_part: Sequence[int] = tuple(pruner.level.number for pruner in pruners)
        self._frozen_network = frozen_network
        self._pruners = tuple(pruners)
        self._config = config
        self._level_weights = level_weights(len(pruners), growth=config.level_weight_growth)
        self._objective = Objective.of(config.recipe, data, non_target_weight=config.non_target_weight)
        self._boundaries: tuple[str, ...] = ()  # where features are learnt
        if config.feature_weight > 0.0 and shared.channel_map.groups:
            self._boundaries = find_boundaries(shared.network, shared.channel_map, data.input_shape)
        self._scores_channels = True
        self._forwards: dict[int, Forward] = {}  # of levels that are compiled
        self._ranks = ranks
        # Ranks talk within a step, which not all ways of talking let a card record; and a record is of certain levels.
        varies = leaves_out(len(pruners), config.levels_a_step)
        execution = "eager" if ranks.size > 1 or varies else config.recipe.execution
        self._branches = Branches(kinds=2 if config.teacher_every > 1 else 1)
        self._records = {
            way: RecordedStep(partial(weakly(self._compute), way), execution, self._branches) for way in get_args(Way)
        }

    def __call__(
        self, way: Way, images: torch.Tensor, labels: torch.Tensor, logits: torch.Tensor | None = None
    ) -> torch.Tensor:
        """One step.

        Args:
            way: how it comes by what the frozen network says.
            images: of the whole batch, on every rank, normalised, N x channels x height x width.
            labels: N classes, or the share of every class, N x classes.
            logits: what `logits` gave for this batch, where they are given.

        Returns:
            The loss of each level, unweighted and detached; 0 of those that take no part.
        """
        assert (logits is not None) == (way == "given"), way
        losses = self._records[way](images, labels, *([] if logits is None else [logits]))
        if self._scores_channels:
            for pruner in self._pruners:  # here, as of a recorded step the kernels alone are replayed
                pruner.meter.num_batches += int(pruner.level.number in self.taking_part)
        return losses

    def logits(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """What the frozen network says of this rank's images of a batch, images x classes."""
        answers = self._ask_frozen_network(self._parts(images, labels))
        return torch.cat([answer.logits_NK for answer in answers if answer is not None])

    def _forget_records(self) -> None:
        for record in self._records.values():
            record.forget()

    def hold(self) -> None:
        """The levels have their sizes: saliency is needed no more, and they are compiled where that is asked for."""
        self._scores_channels = False
        if self._config.recipe.execution == "compile" and not self._forwards:
            self._forwards = {p.level.number: compiled(p.level.network) for p in self._pruners}
        self._forget_records()

    def widen(self) -> None:
        """Make all levels as wide as θ for the next step, after which channels go and may come back."""
        for pruner in self._pruners:
            pruner.widen()
        self._forget_records()

    def cut(self, cuts: Cuts) -> None:
        """Forget what is remembered of weights that have gone."""
        self.weights.cut(cuts)
        self._forget_records()

    def state(self) -> Tensors:
        """Parameters, what the optimiser remembers of them, and their average."""
        return prefixed("weights", self.weights.parameters) | self.weights.state()

    @torch.no_grad()
    def load_state(self, tensors: Tensors) -> None:
        """Put back what `state` gave, among other tensors; parameters are as wide as they were then."""
        for name, parameter in self.weights.parameters.items():
            parameter.copy_(tensors[f"weights.{name}"])
        self.weights.load_state(tensors)
        self._forget_records()

    def _compute(self, way: Way, images: torch.Tensor, labels: torch.Tensor, *logits: torch.Tensor) -> torch.Tensor:
        """All of a step that happens on the device, so that it can be recorded there."""
        parts = self._parts(images, labels)
        frozen_answers: Answers
        match way:
            case "asked":
                with self._branches.part(0):
                    frozen_answers = self._ask_frozen_network(parts)
            case "given":
                (logits_NK,) = logits
                of_parts = torch.split(logits_NK, [len(part.images) for part in parts])
                frozen_answers = [Answer(logits_NK=of_part) for of_part in of_parts]
            case "alone":
                frozen_answers = [None] * len(parts)
        return self._step(parts, frozen_answers)

    def _parts(self, images: torch.Tensor, labels: torch.Tensor) -> Sequence[Part]:
        return micro_batches(images, labels, self._config.recipe.accumulate, self._ranks)

    def _step(self, parts: Sequence[Part], frozen_answers: Answers) -> torch.Tensor:
        """Losses of all levels, the first of which learns from what the frozen network says, and the step."""
        for parameter in self.weights.parameters.values():
            assert parameter.grad is not None
            parameter.grad.zero_()
        larger_answers = frozen_answers
        losses = []
        for pruner in self._pruners:
            if pruner.level.number not in self.taking_part:
                losses.append(torch.zeros((), device=parts[0].images.device))
                continue
            with self._branches.part(pruner.level.number):
                loss, answers = self._train(pruner, parts, larger_answers)
            losses.append(loss)
            larger_answers = frozen_answers if self._config.learns_from == "teacher" else answers
        self._branches.join()
        for pruner, weight in zip(self._pruners, self._level_weights, strict=True):
            if pruner.level.number in self.taking_part:
                pruner.level.accumulate_gradients(weight)
        self.weights.step()
        return torch.stack(losses)

    @torch.no_grad()
    def _ask_frozen_network(self, parts: Sequence[Part]) -> Answers:
        """What the frozen network says, which is not run where nothing is learnt from it."""
        if not self._config.asks_larger:
            return [None] * len(parts)
        network = self._frozen_network
        with autocast(self._config.recipe, network, parts[0].images.device):
            return [self._answer(network, network, part) for part in parts]

    def _train(
        self, pruner: LevelPruner, parts: Sequence[Part], larger_answers: Answers
    ) -> tuple[torch.Tensor, Answers]:
        """Leave a level's gradients in its network and its saliency in its meter; the loss, and what the level says.

        Saliency is made of the gradients that the network holds. Where it is of the labels' loss alone, the network
        holds the gradients of that until they are scored, and those of the level's loss are collected beside: one
        forward pass, and two backward passes.
        """
        pruner.level.refresh()
        parameters = list(pruner.level.network.parameters())
        scores_labels = self._scores_channels and self._config.pruning.saliency_loss == "labels"
        level_gradients = [torch.zeros_like(parameter) for parameter in parameters] if scores_labels else []
        total = torch.zeros((), device=parts[0].images.device)
        answers: list[Answer | None] = []
        for part, larger in zip(parts, larger_answers, strict=True):
            answer = self._level_answer(pruner.level, part)
            if scores_labels:
                labels_loss = self._objective.of_labels(answer.logits_NK, part.labels) * part.share
                labels_loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
            loss = self._loss(answer, larger, part.labels) * part.share
            if scores_labels:
                of_part = torch.autograd.grad(loss, parameters, allow_unused=True)
                for gradient, more in zip(level_gradients, of_part, strict=True):
                    if more is not None:
                        gradient += more
                del of_part  # as much memory as the level's gradients take
            else:
                loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
            answers.append(answer.detached())
        self._ranks.add_up([total, *level_gradients, *(p.grad for p in parameters if p.grad is not None)])
        # Of the whole batch, so that saliency does not depend on how many parts it fits into memory in.
        if self._scores_channels:
            pruner.add_scores()
        if scores_labels:
            for parameter, gradient in zip(parameters, level_gradients, strict=True):
                parameter.grad = gradient
        return total, answers

    def _level_answer(self, level: Level, part: Part) -> Answer:
        network = level.network
        forward = self._forwards.get(level.number, network)
        with autocast(self._config.recipe, network, part.images.device), whole_batch(self._ranks, part.num_together):
            return self._answer(network, forward, part)

    def _answer(self, network: nn.Module, forward: Forward, part: Part) -> Answer:
        with attention_maps(network, self._boundaries) as maps:
            logits_NK = for_losses(forward(part.images))
        return Answer(logits_NK=logits_NK, maps=maps, moment=self._branches.mark())

    def _loss(self, answer: Answer, larger: Answer | None, labels: torch.Tensor) -> torch.Tensor:
        config = self._config
        if larger is not None:
            self._branches.wait_for(larger.moment)
        if larger is None or config.distillation_weight == 0.0:
            loss = self._objective.of_labels(answer.logits_NK, labels)
        else:
            loss = self._objective.of_level(
                answer.logits_NK,
                larger.logits_NK,
                labels,
                temperature=config.temperature,
                weight=config.distillation_weight,
            )
        if larger is not None and answer.maps.keys() & larger.maps.keys():
            loss = loss + config.feature_weight * attention_distance(answer.maps, larger.maps)
        return loss


def level_weights(number: int, *, growth: float) -> tuple[float, ...]:
    """What the losses of so many levels count, the largest level first: each `growth` times the one before, mean 1.

    Args:
        number: levels, at least 1.
        growth: above 0.
    """
    powers = [growth**level for level in range(number)]
    return tuple(power * number / sum(powers) for power in powers)
