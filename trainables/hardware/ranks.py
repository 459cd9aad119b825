"""Processes that train one network together, each on its part of every batch.

They hold the same weights and take the same steps. All of them draw the whole batch from the same seed, so what comes
out depends on how many they are only as far as sums in another order round in another way; and so does a checkpoint,
which any number of them goes on from.
"""

import os
import socket
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

# Its functions keep the group that is there when they are imported, so that `leave` would not end it; its threads would
# then run while the process ends, and abort it.
import torch.distributed.nn.functional
from torch import distributed
from torch._C._distributed_c10d import FileStore

from trainables.tensors import tensors_digest

Backend = Literal["gloo", "nccl"]


class RanksDiffer(RuntimeError):  # noqa: N818 - says what was found
    """Processes that train one network have come to hold different ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """The processes, seen from one of them; they talk over torch's default process group, which is there by then.

    Attributes:
        rank: of this process, 0 … size − 1.
        size: number of processes; one alone says nothing to anybody.
    """

    rank: int = 0
    size: int = 1

    def part(self, number: int) -> slice:
        """Which of so many things in a row are this rank's; parts are as equal as can be."""
        return slice(number * self.rank // self.size, number * (self.rank + 1) // self.size)

    def add_up(self, tensors: Iterable[torch.Tensor]) -> None:
        """Put in place of each tensor its sum over ranks, the same to the last bit on each; one message for all.

        Args:
            tensors: of the same shapes on every rank, and of one type, on one device.
        """
        if self.size == 1:
            return
        tensors = list(tensors)
        together = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        distributed.all_reduce(together)
        with torch.no_grad():
            first = 0
            for tensor in tensors:
                tensor.copy_(together[first : first + tensor.numel()].view(tensor.shape))
                first += tensor.numel()

    def average(self, tensors: Iterable[torch.Tensor]) -> None:
        """Put in place of each tensor its mean over ranks, likewise."""
        if self.size == 1:
            return
        tensors = list(tensors)
        self.add_up(tensors)
        for tensor in tensors:
            tensor /= self.size

    def collect(self, tensor: torch.Tensor) -> torch.Tensor:
        """This tensor of every rank, one after the other along a new first dimension; shapes are the same."""
        rows = tensor.new_zeros((self.size, *tensor.shape))
        rows[self.rank] = tensor
        self.add_up([rows])  # not all backends gather tensors on a card
        return rows

    def require_same(self, tensors: Mapping[str, torch.Tensor], *, what: str) -> None:
        """Check that every rank holds these very tensors.

        Args:
            tensors: by name.
            what: they are, for people to read.

        Raises:
            RanksDiffer: on every rank, naming those that hold something else than rank 0.
        """
        if self.size == 1:
            return
        device = next(iter(tensors.values())).device if distributed.get_backend() == "nccl" else torch.device("cpu")
        digest = bytes.fromhex(tensors_digest(tensors))
        digests = self.collect(torch.tensor(list(digest), dtype=torch.uint8, device=device))
        others = [rank for rank in range(1, self.size) if not torch.equal(digests[rank], digests[0])]
        if others:
            named = f"rank {others[0]}" if len(others) == 1 else f"ranks {', '.join(map(str, others))}"
            raise RanksDiffer(
                f"{what} of {named} are not those of rank 0 (of {self.size}); ranks must run the same code on cards of "
                "the same kind"
            )


ALONE = Ranks()


class Crew(Protocol):
    """The other ranks, as the first of them leads them."""

    @property
    def ranks(self) -> Ranks:
        """All of them, seen from the first."""

    @property
    def closed(self) -> bool:
        """Whether they have ended; more work takes a new crew."""

    def doing(self, work: str, *arguments: Any) -> AbstractContextManager[object]:  # noqa: ANN401 - of the work
        """Within it they do some work of theirs while the first does its own; it ends when all have."""

    def close(self) -> None:
        """Let them end; nothing of them is left."""


class Solo:
    """A crew of nobody else."""

    ranks = ALONE
    closed = False

    def doing(self, work: str, *arguments: Any) -> AbstractContextManager[object]:  # noqa: ANN401
        """Nothing."""
        return nullcontext()

    def close(self) -> None:
        """Nothing."""


def join(rank: int, size: int, *, meeting: Path, backend: Backend, wait: timedelta) -> Ranks:
    """Meet the other ranks, on this machine and over its loopback alone; `leave` ends it.

    Args:
        rank: of this process, 0 … size − 1.
        size: number of processes.
        meeting: a file that is not there yet, in a folder that only this user reads.
        backend: `nccl` for a card for each rank, `gloo` for anything.
        wait: for the others, at most, then and at every message.
    """
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = loopback
    store = FileStore(str(meeting), size)
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=wait)
    return Ranks(rank=rank, size=size)


def leave() -> None:
    """Part from the other ranks, if they were met."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
