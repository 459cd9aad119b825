"""How large a network is, in all that sizes are counted in."""

from dataclasses import dataclass
from typing import Self

from torch import nn

from trainables.pruning.cost import LatencyTable, count_macs, count_params, require_table
from trainables.pruning_config import SizeUnit


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkSize:
    """MACs and parameters of a network, and the milliseconds that a table gives it; the teacher's is what sizes are of.

    Attributes:
        macs: multiply-accumulates of one image.
        params: number of parameters.
        latency_ms: modelled; 0 where no layers were timed.
        table: the layers' times; `None` where none were taken.
    """

    macs: int
    params: int
    latency_ms: float = 0.0
    table: LatencyTable | None = None

    @classmethod
    def count(cls, network: nn.Module, input_shape: tuple[int, int, int], table: LatencyTable | None = None) -> Self:
        """The size of a network on images of a shape."""
        return cls(
            macs=count_macs(network, input_shape),
            params=count_params(network),
            latency_ms=0.0 if table is None else table.total(network),
            table=table,
        )

    def of(self, unit: SizeUnit) -> float:
        """The size in a unit.

        Raises:
            InputError: if sizes are in latency and there is no table.
        """
        if unit == "latency":
            require_table(self.table)
            return self.latency_ms
        return self.macs if unit == "macs" else self.params
