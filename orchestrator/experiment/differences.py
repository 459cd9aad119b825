"""What differs between two experiments, as plain values."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_MOST_NAMED = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A key whose values differ.

    Attributes:
        key: dotted where it lies in a section.
        there: its old value; `None` where there is none.
        here: its new value; `None` where there is none.
    """

    key: str
    there: Any
    here: Any


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], *, may_differ: Collection[str] = (), prefix: str = ""
) -> Iterator[Difference]:
    """Keys whose values differ, in the order of `new`, then those that are in `old` alone.

    Args:
        old: plain values.
        new: plain values.
        may_differ: dotted keys that are passed over.
        prefix: what stands before the keys.
    """
    for key in (*new, *(key for key in old if key not in new)):
        name, there, here = f"{prefix}{key}", old.get(key), new.get(key)
        if name in may_differ:
            continue
        if isinstance(here, Mapping) and isinstance(there, Mapping):
            yield from differences(there, here, may_differ=may_differ, prefix=f"{name}.")
        elif here != there:
            yield Difference(key=name, there=there, here=here)


def told(found: Collection[Difference]) -> str:
    """Differences in words: the first five, and how many more there are."""
    named = [f"{each.key} is {each.there!r} there and {each.here!r} here" for each in list(found)[:_MOST_NAMED]]
    more = len(found) - len(named)
    return ", ".join(named) + (
        f", and {more} more keys differ" if more > 1 else ", and one more differs" if more else ""
    )
