"""How much memory training takes at the least, found before anything is trained.

A training pass is run with tensors that have shapes and nothing else, and what it keeps for its backward pass is added
up. What libraries take besides, as workspace or for their code, is not known here, so the real peak is higher.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from trainables.config import CascadeConfig
from trainables.errors import InputError
from trainables.hardware.machine import gigabytes, machine_bytes
from trainables.model_config import ModelConfig
from trainables.networks.models import BUILT_IN, build
from trainables.pruning.channels import skeleton
from trainables.recipe import Precision, Recipe
from trainables.stages.evaluation import EVALUATION_BATCH

_FLOAT = 4  # bytes
_FEW, _MORE = 2, 4  # images of two passes, between which what grows with the images shows


@dataclass(frozen=True, kw_only=True, slots=True)
class Footprint:
    """Bytes that a network takes.

    Attributes:
        weights: its parameters.
        kept: what a training pass keeps for its backward pass whatever the images, such as weights in bfloat16.
        kept_an_image: what it keeps besides for each image.
        shown_an_image: the most that a layer reads and writes of an image where nothing is kept, as in validation.
    """

    weights: int
    kept: int
    kept_an_image: int
    shown_an_image: int

    def teacher_peak(self, recipe: Recipe, *, num_train: int, num_val: int, ranks: int = 1) -> int:
        """The least that training it alone takes at once.

        Args:
            recipe: how it is trained.
            num_train: training images.
            num_val: validation images.
            ranks: that share every batch; what one of them takes is told.
        """
        copies = self.weights * (2 + _remembered(recipe))
        return copies + self._pass(recipe, num_train=num_train, num_val=num_val, ranks=ranks)

    def cascade_peak(self, config: CascadeConfig, *, num_train: int, num_val: int, ranks: int = 1) -> int:
        """The least that a cascade takes at once, while its levels still keep everything; the network is the teacher.

        There are two teachers, the actor's and the trial's; the shared weights with their gradients and what the
        optimiser remembers; and each level that is trained then, with its gradients.

        Args:
            config: the cascade.
            num_train: training images.
            num_val: validation images.
            ranks: that share every batch; what one of them takes is told.
        """
        num_levels = config.num_levels if config.schedule == "joint" else 1
        copies = 2 + (2 + _remembered(config.recipe)) + 2 * num_levels
        return self.weights * copies + self._pass(config.recipe, num_train=num_train, num_val=num_val, ranks=ranks)

    def _pass(self, recipe: Recipe, *, num_train: int, num_val: int, ranks: int) -> int:
        """Of a micro-batch in training or of a batch in validation, whichever is more."""
        training = math.ceil(math.ceil(min(recipe.batch_size, num_train) / recipe.accumulate) / ranks)
        validation = min(EVALUATION_BATCH, math.ceil(num_val / ranks))
        return max(self.kept + training * self.kept_an_image, validation * self.shown_an_image)


def _remembered(recipe: Recipe) -> int:
    """Numbers that are kept of each weight besides itself and its gradient."""
    moments = 2 if recipe.optimizer == "adamw" else int(recipe.momentum > 0)
    return moments + int(recipe.ema is not None)


def footprint(network: nn.Module, input_shape: tuple[int, int, int], *, precision: Precision) -> Footprint | None:
    """What a network takes, or `None` where its forward pass needs more than shapes.

    Args:
        network: left as it was.
        input_shape: channels, height and width of an image.
        precision: of training.
    """
    few, more = (_kept(network, (number, *input_shape), precision) for number in (_FEW, _MORE))
    shown = _shown(network, (_FEW, *input_shape))
    if few is None or more is None or shown is None:
        return None
    an_image = (more - few) // (_MORE - _FEW)
    return Footprint(
        weights=sum(parameter.numel() * parameter.element_size() for parameter in network.parameters()),
        kept=max(0, few - _FEW * an_image),
        kept_an_image=an_image,
        shown_an_image=shown // _FEW,
    )


@contextmanager
def _shapes_alone(network: nn.Module, precision: Precision) -> Iterator[nn.Module]:
    """The same network without values, as it runs on a processor: the meta device knows no autocast."""
    with (
        FakeTensorMode(allow_non_fake_inputs=True) as mode,
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"),
    ):
        bare: dict[int, torch.Tensor] = {}
        for tensor in [*network.parameters(), *network.buffers()]:
            fake = mode.from_tensor(tensor.detach())
            bare[id(tensor)] = nn.Parameter(fake) if isinstance(tensor, nn.Parameter) else fake
        yield copy.deepcopy(network, bare)


def _kept(network: nn.Module, shape: tuple[int, ...], precision: Precision) -> int | None:
    """Bytes that a training pass keeps, parameters and buffers apart."""
    # By address while each is held, so that what two layers keep counts once.
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    try:
        with (
            _shapes_alone(network, precision) as bare,
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            bare.train().requires_grad_(requires_grad=True)
            own = {tensor.untyped_storage()._cdata for tensor in [*bare.parameters(), *bare.buffers()]}
            bare(torch.zeros(shape))
    except Exception:  # the user's own forward pass, which may look at values
        return None
    return sum(storage.nbytes() for address, storage in kept.items() if address not in own)


def _shown(network: nn.Module, shape: tuple[int, ...]) -> int | None:
    """The most bytes that a layer reads and writes."""
    most = 0

    def look(_layer: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        nonlocal most
        seen = [tensor.untyped_storage() for tensor in (*inputs, output) if isinstance(tensor, torch.Tensor)]
        most = max(most, sum(storage.nbytes() for storage in {storage._cdata: storage for storage in seen}.values()))

    try:
        bare = skeleton(network)
        for layer in bare.modules():
            if not any(layer.children()):
                layer.register_forward_hook(look)
        with torch.no_grad():
            bare(torch.zeros(shape, device="meta"))
    except Exception:  # as above
        return None
    return most


def require_room_for_network(config: ModelConfig, *, num_classes: int, in_channels: int) -> None:
    """Check that a built-in network's weights and their gradients fit into memory before it is built.

    Raises:
        InputError: saying what they take and what there is.
    """
    if config.name not in BUILT_IN:
        return
    with torch.device("meta"):  # shapes alone
        network = build(config, num_classes=num_classes, in_channels=in_channels)
    needed, there = 2 * _FLOAT * sum(parameter.numel() for parameter in network.parameters()), machine_bytes()
    if needed > there:
        raise InputError(
            f"model.width is {config.width!r}, at which weights of {config.name} and their gradients take "
            f"{gigabytes(needed)} of memory, but this machine has {gigabytes(there)}; lower it"
        )
