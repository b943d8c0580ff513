"""The header of each script is its contract. These tests compare it with the body."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from mirrorneuron.store import keys
from mirrorneuron.store.protocol import ReplyCode
from mirrorneuron.store.script_sources import LIBRARIES, SOURCES

LUA = files("mirrorneuron.store") / "lua"
NAMES = sorted(path.name for path in LUA.iterdir() if path.name.endswith(".lua"))
SCRIPTS = [name for name in NAMES if name.removesuffix(".lua") not in ("prelude", *LIBRARIES)]
LONGEST = {"prelude.lua": 140, "commit.lua": 95, "sweep.lua": 100}  # every other file is one small state change


def head_and_body(name: str) -> tuple[str, str]:
    """The header comment as one line, with two spaces between its parts, and the code without comments."""
    lines = (LUA / name).read_text("utf-8").splitlines()
    count = next(n for n, line in enumerate(lines) if not line.startswith("--"))
    head = "  ".join(line.removeprefix("--").strip() for line in lines[:count])
    return head, "\n".join(line.partition("--")[0] for line in lines[count:])


def documented(name: str) -> dict[str, str]:
    """The parts of the header by their keywords."""
    parts = re.split(r"\s{2,}(KEYS|ARGV|Reply|Events?:?)\s", head_and_body(name)[0])
    return {word.rstrip(":s"): f"  {text}" for word, text in zip(parts[1::2], parts[2::2], strict=True)}


def test_each_file_is_one_script_and_each_script_a_file() -> None:
    assert {f"{name}.lua" for name in SOURCES} == set(SCRIPTS)


@pytest.mark.parametrize("name", NAMES)
def test_a_script_is_short_and_begins_with_its_name_and_purpose(name: str) -> None:
    head, _ = head_and_body(name)
    assert head.startswith(f"{name.removesuffix('.lua')}: ")
    assert len((LUA / name).read_text("utf-8").splitlines()) <= LONGEST.get(name, 80)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_arguments_that_a_body_reads_are_those_of_its_header(name: str) -> None:
    numbered = re.findall(r"\s{2,}(\d+)(\.\.)?\s", documented(name)["ARGV"])
    fixed = [int(number) for number, more in numbered if not more]
    used = {int(number) for number in re.findall(r"ARGV\[(\d+)\]", head_and_body(name)[1])}
    assert fixed == list(range(1, len(fixed) + 1))
    assert used - {len(fixed) + 1} == set(fixed)  # arguments after the fixed ones may be named by the first of them
    assert [int(number) for number, more in numbered if more] in ([], [len(fixed) + 1])


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_has_one_key_the_job(name: str) -> None:
    assert documented(name)["KEYS"].strip() == "1 job HASH"
    assert set(re.findall(r"KEYS\[(.+?)\]", SOURCES[name.removesuffix(".lua")].split("\n", 2)[2])) == {"1"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_words_of_a_reply_are_those_of_the_header(name: str) -> None:
    promised = set(re.findall(r"\b[A-Z]{4,}\b", documented(name)["Reply"]))
    code = re.sub(r"redis\.call\('\w+'", "", head_and_body(name)[1])
    answered = {word for word in re.findall(r"'([A-Z]+)'", code) if word in set(ReplyCode)}
    assert promised == answered


def test_every_word_is_a_reply_of_some_script() -> None:
    promised = {word for name in SCRIPTS for word in re.findall(r"\b[A-Z]{4,}\b", documented(name)["Reply"])}
    assert promised == set(ReplyCode)


@pytest.mark.parametrize("name", NAMES)
def test_the_suffixes_of_a_script_are_listed_with_the_keys(name: str) -> None:
    assert keys.__doc__
    listed = set(re.findall(r"^    (:\w+)", keys.__doc__, re.MULTILINE))
    used = set(re.findall(r"JOB \.\. '(:\w+)", head_and_body(name)[1]))
    assert used <= listed


@pytest.mark.parametrize("name", NAMES)
def test_a_script_never_searches_for_keys_and_never_reads_json(name: str) -> None:
    assert not re.search(r"'(KEYS|SCAN)'|cjson|cmsgpack", head_and_body(name)[1])


def test_each_script_says_first_that_it_makes_keys_from_one() -> None:
    """Dragonfly reads this flag in the first line, and refuses such keys without it."""
    assert {text.split("\n", 1)[0] for text in SOURCES.values()} == {"--!df flags=allow-undeclared-keys"}
