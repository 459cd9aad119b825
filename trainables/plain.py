"""Plain values: how they are checked, and how frozen dataclasses of them go to dictionaries and back."""

import dataclasses
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from trainables.errors import InputError, did_you_mean, shown


class PlainConfig:
    """Dictionary round trip for frozen dataclasses of plain values."""

    __slots__ = ()
    # Read by pydantic where a search is read from YAML: an unknown key is an error there as it is here.
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    # What messages call one; the name of its class where it has none.
    called: ClassVar[str] = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings and numbers, ready for JSON."""
        return _plain(dataclasses.asdict(self))  # type: ignore[call-overload,no-any-return]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make one from what `to_dict` gave.

        Raises:
            InputError: on an unknown or missing key or a value out of range.
        """
        called = cls.called or cls.__name__
        _require_mapping(called, values)
        fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        for key in values:
            if key not in fields:
                raise InputError(f"unknown key {key!r} of {called}; {did_you_mean(str(key), sorted(fields))}")
        for key, value in fields.items():
            if key not in values and value.default is value.default_factory is dataclasses.MISSING:
                raise InputError(f"{key} of {called} is missing, and has no default; give it")
        return cls(**{key: _made(key, fields[key].type, value) for key, value in values.items()})


def _made(key: str, kind: object, value: Any) -> Any:
    if not (isinstance(kind, type) and issubclass(kind, PlainConfig)):
        return _frozen(value)
    _require_mapping(key, value)
    return kind.from_dict(value)


def _require_mapping(called: str, values: object) -> None:
    if not isinstance(values, Mapping):
        raise InputError(f"{called} is {shown(values)}, but must be a mapping of its keys to values")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def at_home(path: str) -> str:
    """A path with the user's home for a `~` at its beginning, which shells leave alone in quotes and after `=`.

    Raises:
        InputError: if it is the home of a user whom this machine does not know.
    """
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise InputError(
            f"{path} begins with a home that this machine does not know; give the whole path, or ./{path} for a file "
            "of that name"
        ) from error


def require(rule_holds: bool, message: str) -> None:  # noqa: FBT001 - reads as a sentence where it is called
    """Raise an `InputError` with this message unless the rule holds."""
    if not rule_holds:
        raise InputError(message)


def require_int(name: str, value: object, *, at_least: int, at_most: int | None = None) -> None:
    """Check a whole number and its bounds."""
    rule = f"of at least {at_least}" + ("" if at_most is None else f" and at most {at_most}")
    require(
        isinstance(value, int)
        and not isinstance(value, bool)
        and value >= at_least
        and (at_most is None or value <= at_most),
        f"{name} is {shown(value)}, but must be a whole number {rule}",
    )


def require_number(  # noqa: PLR0913
    name: str,
    value: object,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> None:
    """Check a finite number and its bounds, in the words of the message."""
    bounds = {"above": above, "at least": at_least, "below": below, "at most": at_most}
    rule = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)
    holds = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if holds:
        number = float(value)  # type: ignore[arg-type]
        holds = (
            (above is None or number > above)
            and (at_least is None or number >= at_least)
            and (below is None or number < below)
            and (at_most is None or number <= at_most)
        )
    kind = "a finite number" if isinstance(value, float) and not math.isfinite(value) else "a number"
    require(holds, f"{name} is {shown(value)}, but must be {kind} {rule}")


def require_one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Check that a value is one of those allowed."""
    require(value in allowed, f"{name} is {shown(value)}, but must be one of {', '.join(allowed)}")


def require_flag(name: str, value: object) -> None:
    """Check true or false."""
    require(isinstance(value, bool), f"{name} is {shown(value)}, but must be true or false")


def require_text(name: str, value: object) -> None:
    """Check text that is not empty."""
    require(isinstance(value, str) and value != "", f"{name} is {shown(value)}, but must be text that is not empty")
