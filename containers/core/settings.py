"""Strings from outside become one frozen, validated object; everything wrong with them comes back in one message.

SageMaker and environment variables carry strings only. `parse` accepts a plain string (`adam`, `0.1`) and a JSON-encoded
one (`"adam"`, `[1, 2]`), because boto3 sends the first and the SageMaker SDK the second
(aws/sagemaker-python-sdk issues 3487 and 5317).
"""

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from containers.core.errors import ConfigError


class Settings(BaseModel):
    """Base of every settings object: frozen, finite, unknown names refused, docstrings under fields are their help text."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )


S = TypeVar("S", bound=Settings)


def parse(model: type[S], raw: Mapping[str, Any], *, where: str, also: Iterable[str] = ()) -> S:
    """Validate `raw` as `model`. `also`: what is wrong beside it, for the same message.

    Raises ConfigError whose message names `where` (a file, the flags, the environment), every wrong field with its
    value and what is allowed, and for every unknown name the nearest valid one.
    """
    known = set(model.model_fields)
    problems = [*also, *(unknown(name, known) for name in raw if name not in known)]
    values = {name: _decode(value) for name, value in raw.items() if name in known}
    try:
        settings = model.model_validate(values)
    except ValidationError as error:
        problems += [_wrong(item, raw) for item in error.errors()]
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in sorted(problems))
        raise ConfigError(f"{where}: {len(problems)} setting{'s' * (len(problems) > 1)} cannot be used\n{lines}")
    return settings


def _decode(value: Any) -> Any:
    """Undo one level of JSON encoding where there is one; pydantic then turns strings into numbers and booleans."""
    if not isinstance(value, str) or (value[:1] not in ('"', "[", "{") and value != "null"):
        return value
    try:
        return json.loads(value)
    except (json.JSONDecodeError, RecursionError):
        return value


def unknown(name: str, known: Iterable[str], *, what: str = "setting", otherwise: str | None = None) -> str:
    """The words for a name that is none of `known`: the nearest of them; where none is near `otherwise`, or all."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else otherwise or f"known are {', '.join(known)}"
    return f"{name}: no such {what}; {hint}"


def _wrong(item: Any, raw: Mapping[str, Any]) -> str:
    field = ".".join(str(part) for part in item["loc"])
    message = item["msg"].removeprefix("Value error, ")
    name = str(item["loc"][0]) if item["loc"] else ""
    return f"{field}: {message} (got {raw[name]!r})" if name in raw else f"{field}: {message}".lstrip(": ")
