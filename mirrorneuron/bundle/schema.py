"""Models: dataclasses that are read from JSON objects and written back with every key, known or not.

The schema of a model is derived from the types of its fields and checked by pydantic_core. Pydantic itself is not used:
it takes longer to build a first model than a small bundle takes to validate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from enum import Enum
from types import NoneType
from typing import Annotated, Any, ClassVar, Final, Self, TypeVar, get_args, get_origin, get_type_hints

from pydantic_core import CoreSchema, SchemaSerializer, SchemaValidator, ValidationError, core_schema

from mirrorneuron.bundle.parse import issues_of, kind
from mirrorneuron.errors import Issue, ManifestError
from mirrorneuron.processes.first_use import FIRST_USE

EXTRA: Final = "model_extra"
_PLAIN: Final[dict[Any, Callable[..., CoreSchema]]] = {
    Any: core_schema.any_schema,
    str: core_schema.str_schema,
    bool: core_schema.bool_schema,
    int: core_schema.int_schema,
}
_VALIDATORS: Final[dict[type[Any], SchemaValidator]] = {}  # built on first use


def as_dict(model: Model) -> dict[str, Any]:
    """The fields and the unknown keys of *model*, one level deep."""
    values = vars(model).copy()
    values.update(values.pop(EXTRA))
    return values


@dataclass(kw_only=True)
class Model:
    """Base class of models, which are dataclasses too. Constructing and changing a model checks nothing.

    Types of fields: `Any`, `str`, `bool`, `int`, models, string enums, lists and dicts of these, and any of them
    `| None`. Limits are written as `Annotated[int, ("ge", 1)]`.
    """

    #: used by pydantic_core, and so by `message.encode`, to write a model inside any value
    __pydantic_serializer__: ClassVar = SchemaSerializer(
        core_schema.any_schema(serialization=core_schema.plain_serializer_function_ser_schema(as_dict)),
        # NaN and Infinity are written as constants, so that `message.encode` rejects them; null would hide them.
        core_schema.CoreConfig(ser_json_inf_nan="constants"),
    )

    model_extra: dict[str, Any] = field(default_factory=dict)  #: unknown keys and their values

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Read a JSON object. Raises ManifestError with every error."""
        issues: list[Issue] = []
        model = read(cls, raw, "", issues)
        if model is None:
            raise ManifestError(issues)
        return model

    def to_dict(self) -> dict[str, Any]:
        """The JSON object from which `from_dict` makes an equal model."""
        raw: dict[str, Any] = self.__pydantic_serializer__.to_python(self, mode="json")
        return raw


M = TypeVar("M", bound=Model)


def read(model: type[M], raw: Any, path: str, issues: list[Issue]) -> M | None:
    """Read *raw* as a *model*; add to *issues* and return None if it is invalid. A known key that is null is absent."""
    if not isinstance(raw, Mapping):
        issues.append(Issue(path, f"must be an object, not {kind(raw)}"))
        return None
    validator = _VALIDATORS.get(model)
    if validator is None:
        with FIRST_USE:
            validator = _VALIDATORS.setdefault(model, _validator(model))
    try:
        found: M = validator.validate_python(raw)
    except ValidationError as error:
        issues.extend(issues_of(path, error))
        return None
    return found


def words(model: type[Model]) -> tuple[str, ...]:
    """The known keys of *model*."""
    return tuple(found.name for found in fields(model) if found.name != EXTRA)


def _validator(model: type[Model]) -> SchemaValidator:
    # Strict: "yes" is not a boolean and 1.0 is not an integer. Only strings are converted, to members of an enum.
    return SchemaValidator(_model(model), core_schema.CoreConfig(strict=True))


def _model(model: type[Model]) -> CoreSchema:
    hints = get_type_hints(model, include_extras=True)
    known = {
        found.name: core_schema.model_field(_with_default(_value(hints[found.name]), found))
        for found in fields(model)
        if found.name != EXTRA
    }

    def make(parts: tuple[dict[str, Any], dict[str, Any], set[str]]) -> Model:
        values, extra, _ = parts
        return model(**values, model_extra=extra)

    def without_nulls(raw: Any) -> Any:
        if isinstance(raw, Mapping) and None in raw.values():
            return {key: value for key, value in raw.items() if value is not None or key not in known}
        return raw

    fields_schema = core_schema.model_fields_schema(known, extra_behavior="allow")
    return core_schema.no_info_after_validator_function(
        make, core_schema.no_info_before_validator_function(without_nulls, fields_schema)
    )


def _with_default(schema: CoreSchema, found: Field[Any]) -> CoreSchema:
    if found.default is not MISSING:
        return core_schema.with_default_schema(schema, default=found.default)
    if found.default_factory is not MISSING:
        return core_schema.with_default_schema(schema, default_factory=found.default_factory)
    return schema


def _value(hint: Any, **limits: int) -> CoreSchema:
    """The schema of one type."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint in _PLAIN:
        return _PLAIN[hint](**limits)
    if origin is Annotated:
        return _value(inner[0], **dict(inner[1:]))
    if origin is list:
        return core_schema.list_schema(_value(inner[0]))
    if origin is dict:
        return core_schema.dict_schema(_value(inner[0]), _value(inner[1]))
    if origin is not None:
        (other,) = (option for option in inner if option is not NoneType)
        return core_schema.nullable_schema(_value(other))
    if issubclass(hint, Enum):
        # Older versions of pydantic_core need `missing`; newer ones find the hook in the enum.
        return core_schema.EnumSchema(
            type="enum", cls=hint, members=list(hint), sub_type="str", missing=hint._missing_, strict=False
        )
    return _model(hint)
