"""AWS that does not know yet what was made a moment ago: an operation's first calls are answered as AWS answers then."""

from types import SimpleNamespace

YOUNG: dict[str, list[tuple[str, str]]] = {}
"""Operation → (code, message) of its next answers, one after the other."""


def refuse(model, **_):
    """For botocore's `before-call`: what this returns is the answer, and nothing is sent."""
    if not YOUNG.get(model.name):
        return None
    code, message = YOUNG[model.name].pop(0)
    return SimpleNamespace(status_code=400), {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {}}
