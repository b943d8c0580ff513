"""Models: what the types of their fields accept, and that reading and writing loses no key."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any

import pytest

from mirrorneuron.bundle.schema import Model, words
from mirrorneuron.errors import ManifestError
from mirrorneuron.message import decode, encode


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"

    @classmethod
    def _missing_(cls, value: object) -> Colour | None:
        return cls.RED if value == "crimson" else None


@dataclass(kw_only=True)
class Wheel(Model):
    inches: Annotated[int, ("ge", 1), ("le", 30)]


@dataclass(kw_only=True)
class Car(Model):
    name: Annotated[str, ("min_length", 1)]
    colour: Colour = Colour.BLUE
    fast: bool = False
    wheels: list[Wheel] = field(default_factory=list)
    spare: Wheel | None = None
    notes: dict[str, list[str]] = field(default_factory=dict)
    owner: Any = None


WHOLE: dict[str, Any] = {
    "name": "c",
    "colour": "red",
    "fast": True,
    "wheels": [{"inches": 17, "brand": "x"}],
    "spare": {"inches": 15},
    "notes": {"a": ["b"]},
    "owner": {"any": [1, None]},
    "model_extra": {"own": 1},
    "doors": 3,
}


def test_a_model_is_written_back_with_its_unknown_keys() -> None:
    car = Car.from_dict(WHOLE)
    assert car.to_dict() == decode(encode(car)) == WHOLE
    assert decode(encode({"cars": [car]})) == {"cars": [WHOLE]}
    assert (car.model_extra, car.wheels[0].model_extra) == ({"model_extra": {"own": 1}, "doors": 3}, {"brand": "x"})
    assert copy.deepcopy(car) == pickle.loads(pickle.dumps(car)) == car != Car.from_dict({**WHOLE, "doors": 5})


def test_an_attribute_that_is_set_on_a_model_is_written_like_an_unknown_key() -> None:
    car = Car(name="c")
    car.doors = 3  # type: ignore[attr-defined]
    assert Car.from_dict(car.to_dict()).model_extra == {"doors": 3}


def test_fields_with_defaults_may_be_absent_and_share_no_objects() -> None:
    first, second = Car.from_dict({"name": "c"}), Car.from_dict({"name": "c"})
    assert first == second == Car(name="c")
    first.wheels.append(Wheel(inches=3))
    assert second.wheels == []
    assert words(Car) == ("name", "colour", "fast", "wheels", "spare", "notes", "owner")


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("name", 1, "name: must be a string, not a number"),
        ("name", "", "name: must not be empty"),
        ("colour", "green", 'colour: unknown colour "green" (one of: red, blue)'),
        ("colour", [], "colour: must be a string, not a list (one of: red, blue)"),
        ("fast", 1, "fast: must be true or false, not a number"),
        ("wheels", {}, "wheels: must be a list, not an object"),
        ("wheels", [3], "wheels[0]: must be an object, not a number"),
        ("wheels", [{"inches": 1}, {}], "wheels[1].inches: is required"),
        ("spare", {"inches": 1.0}, "spare.inches: must be a whole number, not 1.0"),
        ("spare", {"inches": True}, "spare.inches: must be a whole number, not True"),
        ("spare", {"inches": 0}, "spare.inches: must be 1 or more, not 0"),
        ("spare", {"inches": 31}, "spare.inches: must be 30 or less, not 31"),
        ("notes", [], "notes: must be an object, not a list"),
        ("notes", {"a": [None]}, "notes.a[0]: must be a string, not null"),
    ],
)
def test_values_are_not_converted(key: str, value: Any, problem: str) -> None:
    with pytest.raises(ManifestError) as caught:
        Car.from_dict({**WHOLE, key: value})
    assert str(caught.value) == problem


def test_all_errors_are_found_at_once() -> None:
    with pytest.raises(ManifestError) as caught:
        Car.from_dict({"colour": 3, "wheels": [{}, {"inches": "x"}], "spare": []})
    assert len(caught.value.issues) == 5


@pytest.mark.parametrize("raw", [None, [], "car", 3])
def test_only_an_object_is_read(raw: Any) -> None:
    with pytest.raises(ManifestError, match="must be an object"):
        Car.from_dict(raw)


def test_a_known_key_that_is_null_is_absent() -> None:
    assert Car.from_dict({"name": "c", "fast": None, "wheels": [{"inches": 3, "other": None}]}).to_dict() == {
        **Car.from_dict({"name": "c"}).to_dict(),
        "wheels": [{"inches": 3, "other": None}],
    }


def test_an_enum_resolves_the_other_names_of_its_words() -> None:
    assert Car.from_dict({"name": "c", "colour": "crimson"}).colour is Colour.RED
