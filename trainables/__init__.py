"""Networks, cascades and how they are trained: pure torch, no cluster and no tracking.

`trainables.load(path)` gives an exported network back.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainables.checkpoint import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and the layers above import this package for its plain values.
    if name == "load":
        from trainables.checkpoint import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
