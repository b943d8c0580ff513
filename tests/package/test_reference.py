"""The manifest reference and the settings reference are complete, and repeat the defaults of the code that runs."""

from __future__ import annotations

import pytest

from mirrorneuron.bundle.manifest import (
    ACCEPTED,
    DERIVED_DEFAULTS,
    EFFECTS,
    MEANINGS,
    AgentType,
    Manifest,
    OnIdle,
    Policies,
    RecoveryMode,
    RoutingMode,
    Template,
)
from mirrorneuron.bundle.node_config import CONFIG_KEYS
from mirrorneuron.bundle.schema import Model, words
from mirrorneuron.message import EMIT_FIELDS, ENVELOPE_EFFECTS, PART_EFFECTS, seed
from mirrorneuron.reference import manifest_reference, settings_reference
from mirrorneuron.settings import PREFIX, UNIT, Settings
from workers.attempt import DEFAULT_BACKOFF_MS, MAX_BACKOFF_MS
from workers.runners.host_local import DEFAULT_PREFIX
from workers.runners.sandbox_paths import SANDBOX_ROOT


@pytest.mark.parametrize("model", EFFECTS)
def test_every_key_of_a_model_has_an_effect(model: type[Model]) -> None:
    assert list(EFFECTS[model]) == list(words(model))


def test_every_word_of_a_choice_has_a_meaning() -> None:
    assert list(MEANINGS) == [w for choice in (AgentType, Template, RoutingMode, RecoveryMode, OnIdle) for w in choice]


def test_only_known_keys_have_another_type_or_default_in_the_reference() -> None:
    assert set(ACCEPTED) <= set(words(Manifest))
    assert set(DERIVED_DEFAULTS) <= {*words(Manifest), *words(Policies)}


def test_every_field_of_a_message_has_a_meaning() -> None:
    message = seed({"correlation_id": "c"}, job_id="j", to="a", message_id="m", timestamp="t")
    assert list(PART_EFFECTS) == list(message)
    assert ENVELOPE_EFFECTS.keys() >= message["envelope"].keys()
    assert ENVELOPE_EFFECTS.keys() | PART_EFFECTS.keys() >= EMIT_FIELDS


def test_every_setting_has_a_meaning_and_every_number_a_unit() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        if isinstance(field.get_default(), int):
            assert isinstance(field.json_schema_extra, dict), name
            assert field.json_schema_extra[UNIT], name


def test_the_defaults_in_the_reference_are_those_of_the_workers() -> None:
    executor = CONFIG_KEYS[AgentType.EXECUTOR]
    assert executor["retry_backoff_ms"].default == f"`{DEFAULT_BACKOFF_MS}`"
    assert MAX_BACKOFF_MS == 3_600_000  # "up to one hour"
    assert executor["name_prefix"].default == f"`{DEFAULT_PREFIX}`"
    assert executor["sandbox_upload_path"].default == f"`{SANDBOX_ROOT}`"


def test_the_manifest_reference_has_a_row_for_every_key() -> None:
    lines = manifest_reference().splitlines()
    for model in EFFECTS:
        for name in words(model):
            assert any(line.startswith(f"| `{name}` |") for line in lines), name
    for agent_type, keys in CONFIG_KEYS.items():
        start = lines.index(f"## `config` of the agent type `{agent_type}`") + 4
        assert [line.split("`")[1] for line in lines[start : start + len(keys)]] == list(keys)


def test_the_settings_reference_has_a_row_for_every_setting() -> None:
    rows = settings_reference().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]


@pytest.mark.parametrize("text", [manifest_reference(), settings_reference()], ids=["manifest", "settings"])
def test_every_row_of_a_table_has_as_many_cells_as_its_head(text: str) -> None:
    cells = 0
    for line in text.splitlines():
        if not line.startswith("|"):
            cells = 0
            continue
        cells = cells or line.count("|")
        assert line.count("|") == cells, line


def test_the_reference_does_not_depend_on_the_machine() -> None:
    assert str(Settings.model_fields["temp_dir"].get_default()) not in settings_reference()


def test_every_config_key_has_a_type_and_an_effect() -> None:
    for keys in CONFIG_KEYS.values():
        assert [name for name, key in keys.items() if not key.type or not key.effect] == []
