"""The Lambda in front of the endpoint: its code and configuration. What is published of it: `function_versions`.

A release of the function is: code to $LATEST → publish → warm the new version (`concurrency`) → flip `live` → cool the old one.
"""

import base64
import hashlib
import io
import zipfile
from functools import cached_property
from pathlib import Path
from typing import Any

from deploy.context import Context
from deploy.engine import Changes, Resource, State, found
from deploy.names import ALIAS
from deploy.storage import INBOX

SOURCE = Path(__file__).parent.parent / "lambda"
HANDLER = "invoke_endpoint.handler"
RUNTIME = "python3.13"


def zip_directory(directory: Path) -> bytes:
    """The modules in `directory` as a zip whose bytes depend on nothing but their content, so its digest is an identity."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(directory.glob("*.py")):
            entry = zipfile.ZipInfo(path.name, (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            entry.create_system = 3
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


class Lambda:
    """What the resources below share: the wanted code and configuration, and which versions carry them."""

    def __init__(self, context: Context, source: Path = SOURCE) -> None:
        self.context = context
        self.client = context.client("lambda")
        self.name = context.names.function
        self.source = source

    @cached_property
    def code(self) -> bytes:
        return zip_directory(self.source)

    @cached_property
    def digest(self) -> str:
        """As Lambda writes CodeSha256."""
        return base64.b64encode(hashlib.sha256(self.code).digest()).decode()

    @cached_property
    def settings(self) -> State:
        """CreateFunction's and UpdateFunctionConfiguration's common part."""
        function, names = self.context.config.function, self.context.names
        variables = {
            "ENDPOINT_NAME": names.endpoint,
            "READ_TIMEOUT_SECONDS": str(
                min(60, max(1, function.timeout_seconds - 5))
            ),  # see docs/lambda.md: room for S3 and a retry
            "INPUT_BUCKET": names.bucket,
            "INPUT_PREFIX": f"{INBOX}/",
        }
        if self.context.config.endpoint.kind == "multi-model":
            variables |= {"MANY_MODELS": "true"} | ({"TARGET_MODEL": function.target_model} if function.target_model else {})
        if function.cors_origins:
            variables["CORS_ORIGINS"] = ",".join(function.cors_origins)
        return {
            "Runtime": RUNTIME,
            "Handler": HANDLER,
            "Role": names.role_arn("lambda"),
            "MemorySize": function.memory_mb,
            "Timeout": function.timeout_seconds,
            "Environment": {"Variables": variables},
        }

    def matches(self, seen: dict[str, Any]) -> bool:
        return seen["CodeSha256"] == self.digest and all(seen.get(name) == value for name, value in self.settings.items())

    def versions(self) -> list[dict[str, Any]]:
        """Published ones, newest first."""
        pages = found(lambda: list(self.client.get_paginator("list_versions_by_function").paginate(FunctionName=self.name)))
        published = [version for page in pages or [] for version in page["Versions"] if version["Version"] != "$LATEST"]
        return sorted(published, key=lambda version: -int(version["Version"]))

    def wanted_version(self) -> str | None:
        """The newest version with the wanted code and configuration; None before it is published."""
        return next((str(version["Version"]) for version in self.versions() if self.matches(version)), None)

    def live_version(self) -> str | None:
        alias = found(self.client.get_alias, FunctionName=self.name, Name=ALIAS)
        return alias and str(alias["FunctionVersion"])

    def state(self, version: str | None = None) -> str:
        """`ready`, `pending` or `Failed`. Of a published version, `State` alone tells (waiter PublishedVersionActive)."""
        seen = self.client.get_function_configuration(FunctionName=self.name, **({"Qualifier": version} if version else {}))
        update = "Successful" if version else seen.get("LastUpdateStatus", "Successful")
        if "Failed" in (seen.get("State"), update):
            return "Failed"
        return "ready" if (seen.get("State", "Active"), update) in _USABLE else "pending"

    def wait_until_usable(self, what: str, version: str | None = None) -> None:
        name = self.name + (f":{version}" if version else "")
        hint = {"Failed": f"`aws lambda get-function-configuration --function-name {name}` names the reason"}
        self.context.wait(
            f"function/{name} {what}",
            lambda: self.state(version),
            until={"ready"},
            failed=hint,
            limit_seconds=180,
            every_seconds=2,
        )


_USABLE = {("Active", "Successful"), ("Inactive", "Successful")}


class Function(Resource):
    """$LATEST: code and configuration. Deleting it deletes versions, aliases and provisioned concurrency."""

    def __init__(self, context: Context, function: Lambda) -> None:
        super().__init__(context)
        self._function = function

    @property
    def key(self) -> str:
        return f"function/{self._function.name}"

    def desired(self) -> State:
        return {"code": self._function.digest, "tags": self.context.tags, **self._function.settings}

    def observe(self) -> State | None:
        answer = found(self._function.client.get_function, FunctionName=self._function.name)
        if answer is None:
            return None
        seen = answer["Configuration"]
        settings = {name: seen.get(name) for name in self._function.settings}
        tags = {key: value for key, value in answer.get("Tags", {}).items() if key in self.context.tags}
        return settings | {"code": seen["CodeSha256"], "tags": tags}

    def create(self) -> None:
        client, function = self._function.client, self._function
        self.context.patiently(
            "the lambda role",
            lambda: client.create_function(
                FunctionName=function.name,
                Code={"ZipFile": function.code},
                PackageType="Zip",
                Tags=self.context.tags,
                **function.settings,
            ),
        )

    def update(self, changes: Changes) -> None:
        client, function = self._function.client, self._function
        function.wait_until_usable("finishes what was begun before")
        if "code" in changes:
            client.update_function_code(FunctionName=function.name, ZipFile=function.code)
            function.wait_until_usable("takes the new code")
        if "tags" in changes:  # before what Lambda needs time for: until then it may refuse any other change
            arn = self.names.arn("lambda", f"function:{function.name}")
            client.tag_resource(Resource=arn, Tags=self.context.tags)
        if set(changes) & set(function.settings):
            client.update_function_configuration(FunctionName=function.name, **function.settings)

    def settle(self) -> None:
        self._function.wait_until_usable("becomes usable")

    def delete(self) -> None:
        self._function.client.delete_function(FunctionName=self._function.name)
