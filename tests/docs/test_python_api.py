"""docs/python-api.md says all of the public face: each name, each signature, each field and each word."""

from __future__ import annotations

import enum
import inspect
import re
from pathlib import Path
from typing import is_typeddict

import pytest

import mirrorneuron
from mirrorneuron import aio

PAGE = (Path(__file__).parents[2] / "docs" / "python-api.md").read_text(encoding="utf-8")
SECTIONS = {
    section.partition("\n")[0].strip("# "): section for section in re.split(r"^(?=#{2,3} )", PAGE, flags=re.MULTILINE)
}
PUBLIC = {name: getattr(mirrorneuron, name) for name in mirrorneuron.__all__}
CLASSES = {name: value for name, value in PUBLIC.items() if isinstance(value, type)}
ERRORS = {name for name, value in CLASSES.items() if issubclass(value, mirrorneuron.MirrorNeuronError)}
WORDS = {name for name, value in CLASSES.items() if issubclass(value, enum.StrEnum)}
RECORDS = {name for name, value in PUBLIC.items() if is_typeddict(value)}
FUNCTIONS = {name for name, value in PUBLIC.items() if inspect.isroutine(value)}


def words_of(section: str) -> set[str]:
    """The names in code spans."""
    return {word for span in re.findall(r"`([^`]+)`", section) for word in re.findall(r"\w+", span)}


@pytest.mark.parametrize("name", sorted(set(mirrorneuron.__all__) - ERRORS))
def test_a_public_name_has_a_section(name: str) -> None:
    assert name in SECTIONS


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_an_error_has_a_row_with_the_built_in_error_that_it_is(name: str) -> None:
    if name == "MirrorNeuronError":
        assert f"`{name}`" in SECTIONS["Errors"]
        return
    row = next(line for line in SECTIONS["Errors"].splitlines() if line.startswith(f"| `{name}` |"))
    bases = {base.__name__ for base in getattr(mirrorneuron, name).__bases__}
    assert words_of(row.split("|")[2]) == bases - {"MirrorNeuronError"}


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_a_function_has_its_signature(name: str) -> None:
    signature = inspect.signature(getattr(mirrorneuron, name))
    empty = inspect.Parameter.empty
    bare = [parameter.replace(annotation=empty) for parameter in signature.parameters.values()]
    shape = signature.replace(parameters=bare, return_annotation=inspect.Signature.empty)
    assert f"```text\n{name}{shape}\n```" in SECTIONS[name]


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_a_record_has_all_its_fields(name: str) -> None:
    fields: set[str] = set(getattr(mirrorneuron, name).__annotations__)
    assert fields <= words_of(SECTIONS[name])


@pytest.mark.parametrize("name", sorted(WORDS))
def test_a_set_of_words_is_complete(name: str) -> None:
    expected = {str(word) for word in getattr(mirrorneuron, name)}
    spans = set(re.findall(r"`([a-z_]+)`", SECTIONS[name]))
    assert spans == expected


def test_the_coroutines_are_those_of_aio() -> None:
    assert "Every function as a coroutine" in SECTIONS["mirrorneuron.aio"]
    assert set(aio.__all__) - {"Client"} == FUNCTIONS
