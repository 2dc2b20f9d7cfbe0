"""What describes the interface at `/openapi.json`: OpenAPI 3.1, as data.

The single-model server's document is `openapi.json`. The multi-model server's is made of it and of `openapi_models.json`, which
holds what only that one has: a loaded model answers what a server of its own would.
"""

import json
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_SHARED_PATHS = ("/ping", "/metrics", "/openapi.json")
_OF_HTTP = ("414", "431")  # refusals below the application; with a body there are more
_OF_BODIES = ("408", *_OF_HTTP, "417", "501")


def single_model() -> dict[str, Any]:
    return _read("openapi.json")


def multi_model() -> dict[str, Any]:
    shared, own = single_model(), _read("openapi_models.json")
    invocations = shared["paths"]["/invocations"]["post"]
    for path in own["paths"].values():
        for method in path.keys() & {"get", "post", "delete"}:
            statuses = _OF_BODIES if method == "post" else _OF_HTTP
            path[method]["responses"] |= {status: invocations["responses"][status] for status in statuses}
    invoke = own["paths"]["/models/{name}/invoke"]["post"]
    own["paths"]["/models/{name}/invoke"]["post"] = (
        invocations | invoke | {"responses": invocations["responses"] | invoke["responses"]}
    )
    own["paths"] |= {path: shared["paths"][path] for path in _SHARED_PATHS}
    schemas = shared["components"]["schemas"]
    own["components"]["schemas"] |= {name: schemas[name] for name in schemas if name != "ExecutionParameters"}
    return {"openapi": shared["openapi"], "servers": shared["servers"], **own}


def _read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((_HERE / name).read_text(encoding="utf-8"))
    return document
