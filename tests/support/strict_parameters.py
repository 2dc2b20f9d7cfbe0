"""botocore knows every enum, pattern and limit of AWS's API and does not check them. Tests do, and what it does not know, too
(`strict_limits`).

`install(session)` makes every client of the session raise `NotWhatAwsTakes` before a wrong request is sent.
"""

import re

from tests.support import strict_limits


class NotWhatAwsTakes(AssertionError):
    pass


def install(session) -> None:
    session.events.register("provide-client-params.*.*", _check)


def _check(params, model, **_) -> None:
    found = list(_problems(model.input_shape, params, model.name)) if model.input_shape is not None else []
    found += strict_limits.problems(model, params)
    if found:
        raise NotWhatAwsTakes("; ".join(found))


def _problems(shape, value, path):
    kind = shape.type_name
    if kind == "structure" and isinstance(value, dict):
        for name, inner in value.items():
            if name in shape.members:
                yield from _problems(shape.members[name], inner, f"{path}.{name}")
    elif kind == "list" and isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _problems(shape.member, inner, f"{path}[{index}]")
        yield from _limits(shape, len(value), path)
    elif kind == "map" and isinstance(value, dict):
        for name, inner in value.items():
            yield from _problems(shape.key, name, f"{path} key")
            yield from _problems(shape.value, inner, f"{path}.{name}")
    elif kind == "string" and isinstance(value, str):
        yield from _string(shape, value, path)
    elif kind in ("integer", "long", "float", "double"):
        yield from _limits(shape, value, path)


def _string(shape, value, path):
    if shape.enum and value not in shape.enum:
        yield f"{path}={value!r} is none of {', '.join(shape.enum[:5])} …"
    pattern = shape.metadata.get("pattern")
    if pattern and not _matches(pattern, value):
        yield f"{path}={value[:60]!r} does not match {pattern[:80]}"
    yield from _limits(shape, len(value), path)


def _limits(shape, size, path):
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and size < low:
        yield f"{path}: {size} is below {low}"
    if high is not None and size > high:
        yield f"{path}: {size} is above {high}"


def _matches(pattern: str, value: str) -> bool:
    """AWS writes Java patterns; those that Python cannot read are not checked."""
    for java, python in (
        (r"\p{L}", r"\w"),
        (r"\p{Z}", r"\s"),
        (r"\p{N}", r"\d"),
        (r"\p{M}", ""),
        (r"\P{M}", "."),
        (r"\p{S}", ""),
    ):
        pattern = pattern.replace(java, python)
    try:
        return re.fullmatch(pattern, value, re.DOTALL) is not None
    except re.error:
        return True
