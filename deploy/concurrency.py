"""How many calls Lambda serves at once, and how many execution environments are warm before they come.

Provisioned concurrency sits on the published version, not on the alias: the new version is warm before `live` flips to it,
and the old one is cooled after.
"""

from typing import Any

from deploy.context import Context
from deploy.engine import Changes, Resource, State, found
from deploy.errors import Refused
from deploy.function import Lambda
from deploy.function_scaling import DIMENSION, target_of


class Reserved(Resource):
    """The function's share of the account, and the brake that protects the endpoint. Absent: no share, no brake.

    It comes after everything that is warm: Lambda refuses a share below that, so what shrinks must have cooled. What grows gets
    its room before (`Provisioned`).
    """

    def __init__(self, context: Context, function: Lambda) -> None:
        super().__init__(context)
        self._function = function

    @property
    def key(self) -> str:
        return f"reserved-concurrency/{self._function.name}"

    def desired(self) -> State:
        return {"reserved": self.context.config.function.reserved_concurrency}

    def observe(self) -> State | None:
        answer = found(self._function.client.get_function_concurrency, FunctionName=self._function.name)
        if answer is None:
            return self.desired() if self.desired()["reserved"] is None else None
        return {"reserved": answer.get("ReservedConcurrentExecutions")}

    def create(self) -> None:
        self.update({})

    def update(self, changes: Changes) -> None:
        del changes
        name, wanted = self._function.name, self.context.config.function.reserved_concurrency
        if wanted is None:
            self._function.client.delete_function_concurrency(FunctionName=name)
        else:
            self._function.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=wanted)

    def check(self) -> None:
        check_account(self.context, self._function)

    def delete(self) -> None:
        """Goes with the function."""


class Provisioned(Resource):
    """Warm environments of the wanted version. Where it scales, any number between the bounds is right.

    The version is there as soon as it is asked for: whether it is warm, or never will be, only the status says.
    """

    def __init__(self, context: Context, function: Lambda) -> None:
        super().__init__(context)
        self._function = function

    @property
    def key(self) -> str:
        return f"provisioned-concurrency/{self._function.name}"

    def desired(self) -> State:
        return {"count": self.context.config.function.provisioned_concurrency, "status": "READY"}

    def observe(self) -> State | None:
        version = self._function.wanted_version()
        seen = version and _provisioned(self._function, version)
        if not seen:
            return None
        count = int(seen["RequestedProvisionedConcurrentExecutions"])
        low, high = self.desired()["count"], self.context.config.function.provisioned_maximum
        return {"count": low if low <= count <= high else count, "status": seen["Status"]}

    def create(self) -> None:
        self._make_room()
        self._function.client.put_provisioned_concurrency_config(
            FunctionName=self._function.name,
            Qualifier=self._function.wanted_version(),
            ProvisionedConcurrentExecutions=self.desired()["count"],
        )

    def _make_room(self) -> None:
        """Warm environments come out of the function's share, where it has one: a larger one, or none, first."""
        share = Reserved(self.context, self._function)
        held, wanted = (share.observe() or {}).get("reserved"), share.desired()["reserved"]
        if held is not None and (wanted is None or wanted > held):
            share.create()

    def update(self, changes: Changes) -> None:
        """What is still warming up is only waited for."""
        if "count" in changes or changes["status"].seen == "FAILED":
            self.create()

    def check(self) -> None:
        if (self.observe() or {}).get("status") != "IN_PROGRESS":  # then it has been granted already
            check_account(self.context, self._function)

    def settle(self) -> None:
        version = self._function.wanted_version()
        logs = "`python -m deploy logs lambda` shows how the handler starts; the old version still serves"
        failed = {"FAILED": logs}

        def state() -> str:
            answer = self._function.client.get_provisioned_concurrency_config(
                FunctionName=self._function.name, Qualifier=version
            )
            failed["FAILED"] = f"AWS said: {answer.get('StatusReason', 'nothing')}; {logs}"
            return str(answer["Status"])

        self.context.wait(
            f"{self.key}: version {version} warms up", state, until={"READY"}, failed=failed, limit_seconds=900, every_seconds=5
        )

    def delete(self) -> None:
        """Goes with the function."""


class Cooled(Resource):
    """No other version stays warm: it would be paid for and never called."""

    def __init__(self, context: Context, function: Lambda) -> None:
        super().__init__(context)
        self._function = function

    @property
    def key(self) -> str:
        return f"warm-leftovers/{self._function.name}"

    def desired(self) -> State:
        return {"versions": []}

    def observe(self) -> State | None:
        wanted = self._function.wanted_version() if self.context.config.function.provisioned_concurrency else None
        warm = [v["Version"] for v in self._function.versions() if _provisioned(self._function, v["Version"]) is not None]
        return {"versions": [version for version in warm if version != wanted]}

    def create(self) -> None:
        """Nothing to make: an absence."""

    def update(self, changes: Changes) -> None:
        scaling = self.context.client("application-autoscaling")
        for version in changes["versions"].seen:
            resource = f"function:{self._function.name}:{version}"
            if target_of(scaling, resource):
                scaling.deregister_scalable_target(ServiceNamespace="lambda", ResourceId=resource, ScalableDimension=DIMENSION)
            self._function.client.delete_provisioned_concurrency_config(FunctionName=self._function.name, Qualifier=version)

    def delete(self) -> None:
        """Goes with the function."""


def check_account(context: Context, function: Lambda) -> None:
    """Raises Refused where the account has too little concurrency left: Lambda keeps 100 (or the whole limit of a new
    account, 10) out of reach, so three warm environments are refused there.
    """
    wanted = context.config.function
    limits = function.client.get_account_settings()["AccountLimit"]
    limit, free = int(limits["ConcurrentExecutions"]), int(limits["UnreservedConcurrentExecutions"])
    more = wanted.provisioned_concurrency
    if wanted.reserved_concurrency is not None:  # then warm environments come out of the function's own share
        held = found(function.client.get_function_concurrency, FunctionName=function.name) or {}
        more = wanted.reserved_concurrency - int(held.get("ReservedConcurrentExecutions", 0))
    floor = min(limit, 100)
    if more > 0 and free - more < floor:
        raise Refused(
            f"function/{function.name}",
            f"needs {more} more of the account's concurrency, but {free} are free of {limit} and Lambda keeps {floor}",
            hint="ask for a higher 'Concurrent executions' quota in Service Quotas, or set provisioned_concurrency = 0 "
            "and no reserved_concurrency in [function]",
        )


def _provisioned(function: Lambda, version: str) -> dict[str, Any] | None:
    return found(function.client.get_provisioned_concurrency_config, FunctionName=function.name, Qualifier=version)
