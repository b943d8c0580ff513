"""The manifest reference and the settings reference as Markdown, made from the tables that the code itself reads.

Only the tools that build the documents import this module.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, Field, fields
from enum import Enum, StrEnum
from types import NoneType
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

from mirrorneuron.bundle.manifest import (
    ACCEPTED,
    AGENT_TYPE_ALIASES,
    ALIASES,
    DERIVED_DEFAULTS,
    EFFECTS,
    MEANINGS,
    TEMPLATE_ALIASES,
    TEMPLATES,
    AgentType,
    Conditions,
    Edge,
    Manifest,
    Node,
    OnIdle,
    Policies,
    RecoveryMode,
    RoutingMode,
    Template,
)
from mirrorneuron.bundle.node_config import CONFIG_KEYS
from mirrorneuron.bundle.schema import EXTRA, Model
from mirrorneuron.message import ENVELOPE_EFFECTS, PART_EFFECTS
from mirrorneuron.settings import PREFIX, UNIT, Settings

_TYPES: Final[dict[Any, str]] = {Any: "any JSON value", str: "string", bool: "boolean", int: "whole number"}
_MODELS: Final = (
    ("Top level", Manifest),
    ("Node", Node),
    ("Edge", Edge),
    ("Conditions of an edge", Conditions),
    ("Policies", Policies),
)
_CHOICES: Final[tuple[tuple[str, type[StrEnum]], ...]] = (
    ("Routing modes", RoutingMode),
    ("Recovery modes", RecoveryMode),
    ("`on_idle`", OnIdle),
)
#: defaults of settings that depend on the machine
_OF_THE_MACHINE: Final = {"temp_dir": "`mirrorneuron-<user id>` in the system's folder for temporary files"}


def manifest_reference() -> str:
    """Every key of a manifest and every field of a message, as Markdown tables under headings of the second level."""
    parts = [_section(title, _model_table(model)) for title, model in _MODELS]
    parts += [_section(title, _words(choice)) for title, choice in _CHOICES]
    parts.append(_section("Agent types", _agent_types()))
    parts.append(_section("Templates", _templates()))
    for agent_type, keys in CONFIG_KEYS.items():
        rows = [(f"`{name}`", key.type, key.default or "-", key.effect) for name, key in keys.items()]
        parts.append(_section(f"`config` of the agent type `{agent_type}`", _table(_KEY_HEAD, rows)))
    head = ("Field", "Type", "Meaning")
    parts.append(_section("Message", _table(head, _meanings(PART_EFFECTS))))
    parts.append(_section("Message envelope", _table(head, _meanings(ENVELOPE_EFFECTS))))
    return "\n".join(parts)


def settings_reference() -> str:
    """Every setting, as one Markdown table."""
    rows = []
    for name, field in Settings.model_fields.items():
        extra = field.json_schema_extra
        unit = extra.get(UNIT, "-") if isinstance(extra, dict) else "-"
        value = field.get_default()
        default = _OF_THE_MACHINE.get(name) or _shown(",".join(value) if isinstance(value, tuple) else value)
        rows.append((f"`{PREFIX}{name.upper()}`", default, str(unit), field.description or ""))
    return _table(("Variable", "Default", "Unit", "Meaning"), rows)


_KEY_HEAD: Final = ("Key", "Type", "Default", "Effect")


def _section(title: str, table: str) -> str:
    return f"## {title}\n\n{table}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)


def _model_table(model: type[Model]) -> str:
    hints = get_type_hints(model, include_extras=True)
    rows = []
    for field in fields(model):
        if field.name != EXTRA:
            effect = EFFECTS[model][field.name]
            if model is Manifest and field.name in ALIASES:
                effect += f" Alias: `{ALIASES[field.name]}`."
            kind = ACCEPTED.get(field.name) or _type(hints[field.name])
            rows.append((f"`{field.name}`", kind, DERIVED_DEFAULTS.get(field.name) or _default(field), effect))
    return _table(_KEY_HEAD, rows)


def _default(field: Field[Any]) -> str:
    if field.default_factory is not MISSING:
        return _shown(field.default_factory())
    if field.default is MISSING:
        return "required"
    return "-" if field.default is None else _shown(field.default)


def _shown(value: Any) -> str:
    return f"`{value if isinstance(value, str) and value else json.dumps(value)}`"


def _type(hint: Any) -> str:
    """The words for a field's type."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint in _TYPES:
        return _TYPES[hint]
    if origin is Annotated:
        return ", ".join([_type(inner[0]), *(_limit(*limit) for limit in inner[1:])])
    if origin is list:
        return "list"
    if origin is dict:
        return "object"
    if origin is not None:
        (other,) = (option for option in inner if option is not NoneType)
        return _type(other)
    if issubclass(hint, Enum):
        return ", ".join(f"`{word.value}`" for word in hint)
    return "object"


def _limit(kind: str, number: int) -> str:
    match kind:
        case "ge":
            return f"at least {number}"
        case "le":
            return f"at most {number:,}"
        case "min_length":
            return "not empty"
    return f"at most {number} characters"


def _words(choice: type[StrEnum]) -> str:
    return _table(("Word", "Meaning"), [(f"`{word}`", MEANINGS[word]) for word in choice])


def _agent_types() -> str:
    aliases = {target: alias for alias, target in AGENT_TYPE_ALIASES.items()}
    rows = [
        (
            f"`{agent_type}`",
            f"`{aliases[agent_type]}`" if agent_type in aliases else "-",
            " ".join(f"`{template}`" for template in Template if template in TEMPLATES[agent_type]),
            MEANINGS[agent_type],
        )
        for agent_type in AgentType
    ]
    return _table(("Agent type", "Alias", "Templates", "Meaning"), rows)


def _templates() -> str:
    aliases = {target: alias for alias, target in TEMPLATE_ALIASES.items()}
    rows = [
        (
            f"`{template}`",
            f"`{aliases[template]}`" if template in aliases else "-",
            " ".join(f"`{agent_type}`" for agent_type in AgentType if template in TEMPLATES[agent_type]),
            MEANINGS[template],
        )
        for template in Template
    ]
    return _table(("Template", "Alias", "Agent types", "Meaning"), rows)


def _meanings(table: dict[str, tuple[str, str]]) -> list[tuple[str, str, str]]:
    return [(f"`{name}`", kind, meaning) for name, (kind, meaning) in table.items()]
