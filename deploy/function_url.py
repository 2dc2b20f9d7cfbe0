"""The function's HTTPS address on the `live` alias, for signed requests of this account only.

Since October 2025 a caller needs two permissions, `lambda:InvokeFunctionUrl` and `lambda:InvokeFunction` (AWS docs, urls-auth).
"""

import json
from typing import Any

from deploy.context import Context
from deploy.engine import Changes, Resource, State, found
from deploy.function import Lambda
from deploy.names import ALIAS

_SIGNATURE = ["authorization", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"]  # only signed requests are let in
_HEADERS = ["content-type", "accept", "x-amzn-sagemaker-target-model", *_SIGNATURE]
_PERMISSIONS: dict[str, dict[str, Any]] = {
    "url": {"Action": "lambda:InvokeFunctionUrl", "FunctionUrlAuthType": "AWS_IAM"},
    "url-invoke": {"Action": "lambda:InvokeFunction", "InvokedViaFunctionUrl": True},
}


class FunctionUrl(Resource):
    def __init__(self, context: Context, function: Lambda) -> None:
        super().__init__(context)
        self._function = function
        self._where = {"FunctionName": function.name, "Qualifier": ALIAS}

    @property
    def key(self) -> str:
        return f"function-url/{self._function.name}:{ALIAS}"

    def desired(self) -> State:
        return {"auth": "AWS_IAM", "cors": self._cors(), "permissions": sorted(_PERMISSIONS)}

    def observe(self) -> State | None:
        url = found(self._function.client.get_function_url_config, **self._where)
        if url is None:
            return None
        return {"auth": url["AuthType"], "cors": self._seen_cors(url.get("Cors") or {}), "permissions": self._granted()}

    def create(self) -> None:
        self._function.client.create_function_url_config(AuthType="AWS_IAM", Cors=self._cors(), **self._where)
        for name in set(_PERMISSIONS) - set(self._granted()):  # deleting an address leaves its permissions
            self._permit(name)

    def update(self, changes: Changes) -> None:
        if set(changes) & {"auth", "cors"}:
            self._function.client.update_function_url_config(AuthType="AWS_IAM", Cors=self._cors(), **self._where)
        if "permissions" in changes:
            for name in set(_PERMISSIONS) - set(changes["permissions"].seen):
                self._permit(name)

    def delete(self) -> None:
        self._function.client.delete_function_url_config(**self._where)

    def _granted(self) -> list[str]:
        policy = found(self._function.client.get_policy, **self._where)
        statements = json.loads(policy["Policy"])["Statement"] if policy else []
        return sorted(statement["Sid"] for statement in statements if statement["Sid"] in _PERMISSIONS)

    def _permit(self, name: str) -> None:
        self._function.client.add_permission(
            StatementId=name, Principal=self.names.account, **_PERMISSIONS[name], **self._where
        )

    def _cors(self) -> State:
        """Empty: browsers may not call it. Here and not in the handler: both together double the headers."""
        origins = list(self.context.config.function.cors_origins)
        if not origins:
            return {}
        return {"AllowOrigins": origins, "AllowMethods": ["POST"], "AllowHeaders": _HEADERS, "MaxAge": 3600}

    def _seen_cors(self, seen: State) -> State:
        """What we set, and whatever else lets a browser in: nothing that AWS adds by itself (`AllowCredentials: false`)."""
        return {name: value for name, value in seen.items() if value} | {name: seen.get(name) for name in self._cors()}
