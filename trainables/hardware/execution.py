"""How the operations of a training step reach the hardware: one by one, recorded on a card, or compiled.

On a card a step of a small network is some thousand short kernels, and telling the card of each takes longer than the
kernel. A CUDA graph holds the kernels of a whole step and starts them at once.
"""

import os
import shutil
from collections.abc import Callable
from typing import Any
from weakref import WeakMethod

import torch
from torch import nn

from trainables.errors import InputError, first_line
from trainables.hardware.branches import Branches
from trainables.recipe import Execution

Step = Callable[..., torch.Tensor]
"""Works on tensors on the device (images, labels, perhaps logits), changes what it owns in place, returns a tensor."""

Forward = Callable[[torch.Tensor], torch.Tensor]

# Steps one by one before a step is recorded: the first makes the optimiser's state, and libraries choose what they run.
_BEFORE_RECORDING = 2


class RecordedStep:
    """Runs a step; on a card its kernels are recorded after some steps and replayed from then on.

    What the step reads and writes must keep its place in memory while the record is used (`forget` ends that), and it
    must ask nothing of the card: whether to go on may not depend on a value.
    """

    def __init__(self, step: Step, execution: Execution, branches: Branches | None = None) -> None:
        """Take a step.

        Args:
            step: what is run.
            execution: with `eager`, or where tensors are not on a card, it is never recorded.
            branches: parts of the step that may run apart once it is recorded.
        """
        self._step = step
        self._branches = Branches() if branches is None else branches
        self._records = execution != "eager"
        self._graph: torch.cuda.CUDAGraph | None = None
        self.forget()

    def forget(self) -> None:
        """Record anew: parameters have other shapes or places, or the step does something else from now on."""
        self._graph = None  # its memory goes back before the next is recorded
        self._inputs: tuple[torch.Tensor, ...] = ()
        self._output = torch.empty(0)
        self._num_before = 0

    def __call__(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Take one step.

        Args:
            tensors: of one shape and layout each while a record is used; those of another shape are not replayed.

        Returns:
            What the step returned; a tensor of its own.

        Raises:
            InputError: if the step cannot be recorded.
        """
        if not self._records or tensors[0].device.type != "cuda":
            return self._step(*tensors)
        if self._graph is None and self._num_before < _BEFORE_RECORDING:
            self._num_before += 1
            with self._branches.weighed():
                return self._step(*tensors)
        if self._graph is None:
            self._record(tensors)
        assert self._graph is not None
        if any(given.shape != held.shape for given, held in zip(tensors, self._inputs, strict=True)):
            return self._step(*tensors)
        for given, held in zip(tensors, self._inputs, strict=True):
            held.copy_(given)
        self._graph.replay()
        return self._output.clone()

    def _record(self, tensors: tuple[torch.Tensor, ...]) -> None:
        """Record the step on copies of these tensors; nothing is computed yet."""
        self._inputs = tuple(tensor.clone() for tensor in tensors)
        graph = torch.cuda.CUDAGraph()
        try:
            # Only this thread is held to what can be recorded: another one pins batches that are streamed.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"), self._branches.apart():
                self._output = self._step(*self._inputs)
        except RuntimeError as error:  # something in the network waits for the card
            raise InputError(
                f"execution is 'graph', but a training step of this network cannot be recorded ({first_line(error)}); "
                "take eager"
            ) from error
        self._graph = graph


def weakly(method: Step) -> Step:
    """A method for a `RecordedStep` that its object holds: the two, and what a card has recorded, go with the object.

    Otherwise they would hold one another until Python looks for such circles.
    """
    reference = WeakMethod(method)

    def step(*given: Any) -> torch.Tensor:  # noqa: ANN401 - whatever the method takes
        alive = reference()
        assert alive is not None
        return alive(*given)

    return step


def compiled(network: nn.Module) -> Forward:
    """A network's forward pass, and so its backward pass, compiled by torch at the first call; weights are shared."""
    forward: Forward = torch.compile(network, dynamic=False)
    return forward


def require_compiler(execution: Execution) -> None:
    """Refuse to compile where nothing can: torch writes C++ (and around its kernels on a card, too) and builds it.

    Raises:
        InputError: if there is no compiler.
    """
    if execution == "compile":
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            raise InputError(
                f"execution is 'compile', but there is no C++ compiler {compiler!r} on this machine; install one "
                "(Debian and Ubuntu: apt-get install g++) or take graph"
            )
