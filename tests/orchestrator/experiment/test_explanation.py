"""What is wrong in a model's values is told by its key, whatever the model."""

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.experiment.explanation import explain, stray_flag


class Oven(BaseModel, extra="forbid"):
    degrees: tuple[float, float] = (0.0, 1.0)
    names: tuple[str, ...] = ()


@dataclass
class Bread:
    __pydantic_config__ = ConfigDict(extra="forbid")
    flour: Annotated[int, Field(ge=1)] = 1


class Shop(BaseModel, extra="forbid"):
    oven: Oven | None = None


class Bakery(BaseModel, extra="forbid"):
    oven: Oven | None = None
    breads: dict[str, Bread] = Field(default_factory=dict)
    best: Bread | str = "rye"
    is_open: bool = True
    days: tuple[bool, ...] = ()
    more: Any = None
    guests: Annotated[int, Field(ge=1)] | None = None
    prices: dict[str, int] = Field(default_factory=dict)
    shops: dict[str, Shop] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"oven": {"degrees": 3}}, "oven.degrees is 3, but must be a list of two, [lowest, highest]"),
        ({"oven": {"degree": 3}}, "unknown key 'oven.degree'; did you mean 'degrees'?"),
        ({"oven": {"names": "a"}}, "oven.names is 'a', but must be a list, such as [a]"),
        ({"oven": 3}, "oven is 3, but must be keys and values, such as oven: {degrees: …}"),
        ({"breads": {"rye": {"flower": 1}}}, "unknown key 'breads.rye.flower'; did you mean 'flour'?"),
        ({"breads": {"rye": 3}}, "breads.rye is 3, but must be keys and values, such as rye: {flour: …}"),
        ({"best": {"flour": 0}}, "best.flour is 0, but must be greater than or equal to 1"),
        # Keys that are called as kinds of values are.
        ({"oven": {"str": 1}}, "unknown key 'oven.str'; there are degrees, names"),
        ({"int": 1}, "unknown key 'int'; there are oven, breads, best, is_open, days, more, guests, prices, shops"),
        # Keys that are known in another section.
        ({"oven": {"guests": 1}}, "unknown key 'oven.guests'; there are degrees, names; elsewhere there is guests"),
        ({"degrees": 3}, "unknown key 'degrees'; elsewhere there is oven.degrees: [3, 3] (a range)"),
        ({"degrees": [1, 3]}, "unknown key 'degrees'; elsewhere there is oven.degrees: [lowest, highest]"),
        (
            {"flour": 3},
            "unknown key 'flour'; elsewhere there is best.flour",
        ),  # the others are of breads of the user's own
        ({"best": {"names": 3}}, "unknown key 'best.names'; there are flour; elsewhere there is oven.names"),
        # Keys with dots, as --set has them.
        (
            {"oven.degrees": [0, 1]},
            "unknown key 'oven.degrees'; in a file this is oven: {degrees: [0, 1]}; dots are for --set",
        ),
        (
            {"breads": {"rye": {}}, "best.flour": None},
            "unknown key 'best.flour'; in a file this is best: {flour: …}; dots are for --set",
        ),
        (
            {"breads.rye.flour": 1},
            "unknown key 'breads.rye.flour'; in a file this is breads: {rye: {flour: 1}}; dots are for --set",
        ),
        (
            {"shops": {"main": {"oven.names": ["a"]}}},
            "unknown key 'shops.main.oven.names'; in a file this is oven: {names: [a]} below shops.main; dots are "
            "for --set",
        ),
        (
            {"cellar.degrees": 3},
            "unknown key 'cellar.degrees'; there are oven, breads, best, is_open, days, more, guests, prices, shops",
        ),
        ({"oven": {"name.s": 3}}, "unknown key 'oven.name.s'; did you mean 'names'?"),
        ({"breads": {"rye.light": {"flower": 1}}}, "unknown key 'breads.rye.light.flower'; did you mean 'flour'?"),
        # Mappings and lists as YAML has them, in one line.
        (
            {"oven": {"degrees": {"é": [1, "1", None]}}},
            "oven.degrees is {é: [1, '1', null]}, but must be a list of two, [lowest, highest]",
        ),
        ({"oven": [True, "a\nb"]}, "oven is [true, 'a b'], but must be keys and values, such as oven: {degrees: …}"),
        ({"oven": [Oven]}, f"oven is [{Oven!r}], but must be keys and values, such as oven: {{degrees: …}}"),
        # Dots at the ends of a key are its own.
        ({".oven": 1}, "unknown key '.oven'; did you mean 'oven'?"),
        ({"oven.": 1}, "unknown key 'oven.'; did you mean 'oven'?"),
        ({"oven": {".names.": 1}}, "unknown key 'oven..names.'; did you mean 'names'?"),
        ({"breads": {"rye.": {"flour": 0}}}, "breads.rye..flour is 0, but must be greater than or equal to 1"),
        (
            {"guests": "1e3"},
            "guests is '1e3', which is text in YAML, by its quotes or by an exponent with no point "
            "before it; write 1000",
        ),
        ({"guests": "1.5"}, "guests is '1.5', but must be a valid integer, unable to parse string as an integer"),
        ({"guests": ""}, "guests is '', but must be a valid integer, unable to parse string as an integer"),
        ({"oven": {"names": None}}, "oven.names is empty, but must be a list"),
        (
            {"guests": "x" * 1000},
            f"guests is '{'x' * 99}…, but must be a valid integer, unable to parse string as an integer",
        ),
        ({"oven": {"names": ""}}, "oven.names is '', but must be a list"),
        ({"prices": {"rye:2": None}}, "prices.rye:2 has no value; a space must follow the colon in YAML"),
        ({"guests": "x"}, "guests is 'x', but must be a valid integer, unable to parse string as an integer"),
        ({"breads": {"Bread": {"flour": 0}}}, "breads.Bread.flour is 0, but must be greater than or equal to 1"),
    ],
)
def test_the_first_wrong_value_is_told_by_its_key(values, message):
    with pytest.raises(ValidationError) as found:
        Bakery.model_validate(values)
    assert explain(found.value, Bakery) == message


def test_lists_within_lists_that_anchors_make_endless_are_cut():
    endless = ["x"]
    for _ in range(100):
        endless = [endless] * 10
    for values in ({"guests": endless}, {"oven": {"degrees": endless}}, {"oven": endless}):
        with pytest.raises(ValidationError) as found:
            Bakery.model_validate(values)
        assert len(explain(found.value, Bakery)) < 250


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"oven": {"degrees": [0, True]}}, "oven.degrees is true"),
        ({"breads": {"rye": {"flour": False}}}, "breads.rye.flour is false"),
        ({"best": {"flour": True}}, "best.flour is true"),
        ({"breads": {"rye.": {"flour": True}}}, "breads.rye..flour is true"),
        ({"guests": True}, "guests is true"),
        ({"is_open": False, "days": [True], "more": {"a": True}, "oven": {"names": ["a"]}}, None),
        ({"oven": {"degrees": True}, "breads": True}, None),  # told as what must be a list, or keys and values
        ({"unknown": True, "oven": {"unknown": True}}, None),  # told as unknown keys
    ],
)
def test_a_flag_is_no_number(values, place):
    said = stray_flag(values, Bakery)
    assert said is None if place is None else said.startswith(f"{place}, but must be a number")
