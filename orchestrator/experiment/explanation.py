"""What pydantic says of wrong values, in one line: the first wrong key, the rule, the value and the mend.

Keys, and which of them are ranges, are read from the models themselves.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import date
from decimal import Decimal
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel, ValidationError

from trainables.errors import InputError, cut, did_you_mean, shown

_NOT_A_NUMBER = ("int_parsing", "int_type", "float_parsing", "float_type")  # what pydantic calls it
_ANY = "*"
"""In place of a key that is the user's own to choose."""
_FEW = 4  # keys of a section that are all named


class _Places(NamedTuple):
    """What stands where in a model and in its sections; places are dotted, the model itself is at ''.

    Attributes:
        keys: of each section.
        ranges: places of two ends.
        branches: names of the kinds that a place has a choice of, under which pydantic reports what is wrong with each.
        kinds: annotations.
    """

    keys: Mapping[str, tuple[str, ...]]
    ranges: frozenset[str]
    branches: Mapping[str, frozenset[str]]
    kinds: Mapping[str, Any]

    def found(self, location: tuple[int | str, ...]) -> tuple[str, str]:
        """The place that one of pydantic's locations is about, as the user has it and as the model has it.

        Branches are no keys of the user's.
        """
        named = known = ""
        for part in map(str, location):
            if "[" not in part and part not in self.branches.get(known, ()):
                named = _below(named, part)
                of_the_model = (_below(known, key) for key in (part, _ANY))
                known = next((place for place in of_the_model if place in self.kinds), _below(known, part))
        return named, known


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One line for the first thing that is wrong in values of this model, with its key."""
    places = _places(model)
    first, *others = error.errors()
    or_list = ""
    if "[" in str(first["loc"][-1]):  # a choice of words or a list; what is wrong within a list says more
        first = next((other for other in others if other["loc"][:-2] == first["loc"][:-1]), first)
        or_list = " or a list" if "[" in str(first["loc"][-1]) else ""
    place, known = places.found(first["loc"])
    own = first.get("ctx", {}).get("error")
    if isinstance(own, InputError):
        return _named(own, place)
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return _unknown(places, first["loc"], first["input"])
    number = _number_in(first["input"]) if first["type"] in _NOT_A_NUMBER else None
    if number is not None and (number.is_integer() or first["type"].startswith("float")):
        written = f"{number:.0f}" if number.is_integer() else f"{Decimal(first['input']):f}"
        return (
            f"{place} is {_shown(first['input'])}, which is text in YAML, by its quotes or by an exponent with no "
            f"point before it; write {written}"
        )
    if first["type"] in _NOT_A_NUMBER and first["input"] is None and ":" in place:
        return f"{place} has no value; a space must follow the colon in YAML"
    if first["type"] == "string_type" and isinstance(first["input"], int | float | date | Mapping):
        example = "" if isinstance(first["loc"][-1], int) else f", as in --set '{place}=\"…\"'"
        return f"{place} is {_shown(first['input'])} as YAML reads it, but must be text; put quotes around it{example}"
    kind = _wrong_kind(place, first["type"], first["input"], places.keys.get(known), places.ranges)
    if kind is not None:
        return kind
    rule = re.sub(r"^\w+ should", "but must", first["msg"])
    return f"{place} is {_shown(first['input'])}, {rule[0].lower()}{rule[1:]}{or_list}"


def _unknown(places: _Places, location: tuple[int | str, ...], value: object) -> str:
    """What is said of a key that its section does not have; it may have dots itself."""
    (section, known), key = places.found(location[:-1]), str(location[-1])
    unknown = f"unknown key {_below(section, key)!r}"
    parent, *inner = key.split(".")
    below = f"{_below(known, parent)}."
    if not inner or not all(inner) or not any(place.startswith(below) for place in places.kinds):
        mend, elsewhere = did_you_mean(key, places.keys.get(known, ())), _elsewhere(places, key, value)
        if elsewhere is not None:
            few = len(places.keys.get(known, ())) <= _FEW  # a list of many would only hide it
            mend = f"{mend} {elsewhere}" if mend.endswith("?") else f"{mend}; {elsewhere}" if few else elsewhere
        return f"{unknown}; {mend}"
    written = "…" if value is None else _shown(value)
    for part in reversed(inner):
        written = f"{{{part}: {written}}}"
    where = f" below {section}" if section else ""
    return f"{unknown}; in a file this is {parent}: {written}{where}; dots are for --set"


def _elsewhere(places: _Places, key: str, value: object) -> str | None:
    """Where a key is known that its section does not have; `None` where nowhere by a name that is not the user's."""
    found = [place for place in places.kinds if place.rpartition(".")[2] == key and _ANY not in place.split(".")]
    if not found:
        return None
    *others, last = (f"{place}{_as_range(value) if place in places.ranges else ''}" for place in found)
    return f"elsewhere there is {last}" if not others else f"elsewhere there are {', '.join(others)} and {last}"


def _as_range(value: object) -> str:
    """How a single value is written where a range is asked for."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f": [{value}, {value}] (a range)" if is_number else ": [lowest, highest]"


def _below(place: str, key: str) -> str:
    """The place of a key, which may begin or end with a dot itself, in the section at a place."""
    return f"{place}.{key}" if place else key


def _shown(given: object) -> str:
    """A value as its YAML has it, in one line: text in quotes, and words for flags and for nothing."""
    if given is None or isinstance(given, bool):
        return "empty" if given is None else str(given).lower()
    if isinstance(given, Mapping | list | tuple):
        with suppress(yaml.YAMLError, RecursionError):  # of what no file has, and of lists within lists without end
            dumped = yaml.safe_dump(given, default_flow_style=True, width=math.inf, allow_unicode=True, sort_keys=False)
            return cut(re.sub(r"\s*\n\s*", " ", dumped.strip()))
    return str(given) if isinstance(given, date) else shown(given)


def _number_in(text: object) -> float | None:
    """What text could have meant, as 1e3, without a point, is text in YAML."""
    try:
        number = float(text) if isinstance(text, str) else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def stray_flag(values: Mapping[str, Any], model: type[BaseModel]) -> str | None:
    """One line for the first true or false where a number is asked for, as which pydantic would take it: 1 or 0."""
    kinds = _places(model).kinds
    for place, members, value in _leaves(values, kinds):
        if isinstance(value, bool) and not members.isdisjoint((int, float)) and bool not in members:
            return f"{place} is {str(value).lower()}, but must be a number (yes, no, on and off are flags in YAML too)"
    return None


def _leaves(
    value: object, kinds: Mapping[str, Any], place: str = "", known: str = ""
) -> Iterator[tuple[str, frozenset[Any], Any]]:
    """Where values stand, what may stand there, and the values; of places that the model does not know none."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            for name in (str(key), _ANY):
                if _below(known, name) in kinds:
                    yield from _leaves(inner, kinds, _below(place, str(key)), _below(known, name))
                    break
        return
    members = _members(kinds[known])
    if isinstance(value, list | tuple):
        within = [get_args(member) for member in members if get_origin(member) is tuple]
        members = tuple(inner for arguments in within for kind in arguments for inner in _members(kind))
    for each in value if isinstance(value, list | tuple) else (value,):
        yield place, frozenset(members), each


def _named(own: InputError, place: str) -> str:
    """An error of a section's own, with the section's name, if it does not name itself."""
    section, head = place.rpartition(".")[::2]
    if str(own).startswith(f"{head}."):
        return f"{section}.{own}" if section else str(own)
    return f"{place}.{own}" if head in ("teacher", "recipe") else f"{place}: {own}"


def _wrong_kind(
    place: str, kind: str, given: object, keys: tuple[str, ...] | None, ranges: frozenset[str]
) -> str | None:
    """What is said where a section, a range or a list is none; `None` where that is not what is wrong."""
    head, _, key = place.rpartition(".")
    if head in ranges and kind == "missing":  # one of its ends
        place, key, kind = head, head.rpartition(".")[2], "tuple_type"
    if kind in ("dataclass_type", "model_type", "dict_type"):
        if keys is not None and given is None:
            return f"{place} is empty; give keys below it, such as {keys[0]}, or leave it out"
        named = given if keys is not None and keys[0] == "name" and isinstance(given, str) else "…"
        example = "" if keys is None else f", such as {key}: {{{keys[0]}: {named}}}"
        return f"{place} is {_shown(given)}, but must be keys and values{example}"
    if place in ranges and kind in ("tuple_type", "too_long"):
        return f"{place} is {_shown(given)}, but must be a list of two, [lowest, highest]"
    if kind == "tuple_type":
        return f"{place} is {_shown(given)}, but must be a list" + (
            f", such as [{cut(given)}]" if given and isinstance(given, str) else ""
        )
    return None


@cache
def _places(model: type[BaseModel]) -> _Places:
    keys: dict[str, tuple[str, ...]] = {}
    branches: dict[str, frozenset[str]] = {}
    ranges = set()
    kinds = dict(_walk("", model))
    for place, kind in kinds.items():
        members = _members(kind)
        if len(members) > 1:
            branches[place] = frozenset(member.__name__ for member in members if isinstance(member, type))
        for member in members:
            fields = _fields(member)
            if fields:
                keys[place] = tuple(fields)
            if get_origin(member) is tuple and get_args(member) in ((int, int), (float, float)):
                ranges.add(place)
    return _Places(keys, frozenset(ranges), branches, kinds)


def _walk(place: str, kind: Any) -> Iterator[tuple[str, Any]]:
    """All places below one, itself first, and the annotations there."""
    yield place, kind
    for member in _members(kind):
        inner = dict(_fields(member))
        if get_origin(member) is dict:
            inner[_ANY] = get_args(member)[1]
        for name, annotation in inner.items():
            yield from _walk(_below(place, name), annotation)


def _members(kind: Any) -> tuple[Any, ...]:
    """What an annotation allows beside `None`: itself, or the members of a union."""
    origin = get_origin(kind)
    if origin is Annotated:
        return _members(get_args(kind)[0])
    if origin in (Union, UnionType):
        return tuple(member for inner in get_args(kind) for member in _members(inner))
    return () if kind is NoneType else (kind,)


def _fields(kind: Any) -> Mapping[str, Any]:
    """Fields of a section and their annotations; none where it is no section."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    return {}
