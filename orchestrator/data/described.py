"""What is said of the images that a search reads. Light: plain values alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """Images that a search reads.

    Attributes:
        name: such as `digits`.
        digest: of the images.
        source: where they lie.
        context: `training` or `validation`.
        profile: how many there are, and of what.
    """

    name: str
    digest: str
    source: str
    context: str
    profile: Mapping[str, Any] = field(default_factory=dict)
