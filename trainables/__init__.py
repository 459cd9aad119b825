"""Networks, cascades and how they are trained: pure torch, no cluster and no tracking.

`trainables.load(path)` gives an exported network back.
"""

import os
from typing import TYPE_CHECKING, Any

# On a CPU, oneDNN compiles a kernel for every shape and pass and keeps the last 1024, but a step of a deep cascade
# takes more (DenseNet-121, five levels: 2239) and would compile them anew each time. It reads this when it makes the
# first kernel of a process.
if "DNNL_PRIMITIVE_CACHE_CAPACITY" not in os.environ:  # an older name, which the newer one would overrule
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "4096")

if TYPE_CHECKING:
    from trainables.files.checkpoint import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and the layers above import this package for its plain values.
    if name == "load":
        from trainables.files.checkpoint import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
