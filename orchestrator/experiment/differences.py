"""What differs between two experiments, as plain values."""

from collections.abc import Collection, Mapping
from typing import Any


def first_difference(
    old: Mapping[str, Any], new: Mapping[str, Any], *, may_differ: Collection[str] = (), prefix: str = ""
) -> tuple[str, Any, Any] | None:
    """The first key whose values differ, dotted where it lies in a section, with the old value and the new one.

    Args:
        old: plain values.
        new: plain values; keys that are only in `old` are not looked at.
        may_differ: dotted keys that are passed over.
        prefix: what stands before the keys.
    """
    for key, here in new.items():
        name, there = f"{prefix}{key}", old.get(key)
        if name in may_differ:
            continue
        if isinstance(here, Mapping) and isinstance(there, Mapping):
            inner = first_difference(there, here, may_differ=may_differ, prefix=f"{name}.")
            if inner is not None:
                return inner
        elif here != there:
            return name, there, here
    return None
