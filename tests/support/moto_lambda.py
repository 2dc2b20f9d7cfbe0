"""Lambda: versions that are pending at first, provisioned concurrency, account settings; CORS that is taken away."""

import json
from urllib.parse import unquote

from moto.awslambda import urls
from moto.awslambda.exceptions import LambdaClientError
from moto.awslambda.models import FunctionUrlConfig, LambdaBackend, LambdaStorage
from moto.awslambda.responses import LambdaResponse as Response

from tests.support.moto_sagemaker import POLLS

ORDINARY_ACCOUNT = {"ConcurrentExecutions": 1000, "UnreservedConcurrentExecutions": 1000}
ACCOUNT: dict[str, int] = dict(ORDINARY_ACCOUNT)
"""What GetAccountSettings says; a new account has 10 of both."""
COLD: list[str] = []
"""Why the next warm-ups fail, one after the other."""
BROKEN: list[str] = []
"""Why the next published versions never become active, one after the other."""

plain_update = FunctionUrlConfig.update
plain_publish = LambdaStorage.publish_version
plain_reserve = LambdaBackend.put_function_concurrency
plain_configuration = Response.get_function_configuration


class Refusal(LambdaClientError):
    def __init__(self, status, error, message) -> None:
        self.code = status
        super().__init__(error, message)


def install() -> None:
    path = r"{0}/(?P<api_version>[^/]+)/functions/(?P<function_name>[\w_:%-]+)/provisioned-concurrency/?$"
    urls.url_paths[path] = Response.dispatch
    urls.url_paths[r"{0}/(?P<api_version>[^/]+)/account-settings/?$"] = Response.dispatch
    for function in (
        put_provisioned_concurrency_config, get_provisioned_concurrency_config, delete_provisioned_concurrency_config,
        get_account_settings,
    ):  # fmt: skip
        setattr(Response, function.__name__, function)
    FunctionUrlConfig.update = update
    LambdaBackend.put_function_concurrency = put_function_concurrency
    LambdaStorage.publish_version = publish_version
    Response.get_function_configuration = get_function_configuration


def update(self, new_config):
    """An empty `Cors` takes it away (the Terraform provider sends it for that); moto takes it for none given."""
    plain_update(self, new_config)
    if new_config.get("Cors") == {}:
        self.config.pop("Cors", None)


def publish_version(self, *args, **kwargs):
    version = plain_publish(self, *args, **kwargs)
    if version is not None and not hasattr(version, "polls"):  # a new one
        version.polls, version.state = POLLS, "Pending"
        version.end = "Failed" if BROKEN and BROKEN.pop(0) else "Active"
    return version


def get_function_configuration(self):
    """A new version is pending for its first answers."""
    name = unquote(self.path.rsplit("/", 2)[-2])
    function = self.backend.get_function(name, self._get_param("Qualifier", None))
    if getattr(function, "polls", 0) > 0:
        function.polls -= 1
    else:
        function.state = getattr(function, "end", "Active")
    return plain_configuration(self)


def put_function_concurrency(self, function_name, reserved_concurrency):
    """In AWS's words, as LocalStack's provider has them from its tests against AWS."""
    warm = getattr(self.get_function(function_name), "warm", {})
    total = sum(row["RequestedProvisionedConcurrentExecutions"] for row in warm.values())
    if int(reserved_concurrency) < total:
        share = f"ReservedConcurrentExecutions  {reserved_concurrency} should not be lower than"
        raise Refusal(400, "InvalidParameterValueException", f"{share} function's total provisioned concurrency [{total}].")
    return plain_reserve(self, function_name, reserved_concurrency)


def addressed(self):
    """(the function, its qualifier, the store). Only published versions and aliases may be warm."""
    name = unquote(self.path.rstrip("/").rsplit("/", 2)[-2])
    qualifier = (self.querystring.get("Qualifier") or ["$LATEST"])[0]
    if qualifier == "$LATEST":
        message = "Provisioned Concurrency Configs cannot be applied to unpublished function versions."
        raise Refusal(400, "InvalidParameterValueException", message)
    known = {str(version.version) for version in self.backend.list_versions_by_function(name)}
    known |= {alias.name for alias in self.backend.list_aliases(name)}
    if qualifier not in known:
        raise Refusal(404, "ResourceNotFoundException", f"Cannot find version or alias {qualifier}")
    function = self.backend.get_function(name)
    if not hasattr(function, "warm"):
        function.warm = {}
    return function, qualifier, function.warm


def put_provisioned_concurrency_config(self):
    function, qualifier, store = addressed(self)
    count = json.loads(self.body)["ProvisionedConcurrentExecutions"]
    others = sum(row["RequestedProvisionedConcurrentExecutions"] for name, row in store.items() if name != qualifier)
    reserved = function.reserved_concurrency
    if reserved is not None and others + count > int(reserved):
        message = "Requested Provisioned Concurrency should not be greater than the reservedConcurrentExecution for function"
        raise Refusal(400, "InvalidParameterValueException", message)
    end = {"Status": "FAILED", "StatusReason": COLD.pop(0)} if COLD else {"Status": "READY"}
    row = {"RequestedProvisionedConcurrentExecutions": count, "Status": "IN_PROGRESS"}
    store[qualifier] = row | {"polls": POLLS, "end": end}
    return 202, {"status": 202}, json.dumps(view(store[qualifier]))


def get_provisioned_concurrency_config(self):
    _, qualifier, store = addressed(self)
    if qualifier not in store:
        message = "No Provisioned Concurrency Config found for this function"
        raise Refusal(404, "ProvisionedConcurrencyConfigNotFoundException", message)
    return 200, {}, json.dumps(view(store[qualifier]))


def delete_provisioned_concurrency_config(self):
    _, qualifier, store = addressed(self)
    store.pop(qualifier, None)
    return 204, {"status": 204}, ""


def get_account_settings(self):
    return 200, {}, json.dumps({"AccountLimit": ACCOUNT})


def view(row):
    if row["polls"] > 0:
        row["polls"] -= 1
    else:
        row |= row["end"]
    ready = row["RequestedProvisionedConcurrentExecutions"] if row["Status"] == "READY" else 0
    shown = {name: value for name, value in row.items() if name not in ("polls", "end")}
    return shown | {"AllocatedProvisionedConcurrentExecutions": ready, "AvailableProvisionedConcurrentExecutions": ready}
