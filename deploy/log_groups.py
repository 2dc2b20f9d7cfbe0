"""Log groups are made by us, so that they have a retention: those that AWS makes keep everything for ever.

Those of training and transform jobs belong to all of the account's jobs: their retention is the account's business.
"""

from deploy.context import Context
from deploy.engine import Changes, Resource, State

LOG_DAYS = 30
"""Of instances and endpoint; the Lambda's are a setting."""


class LogGroup(Resource):
    def __init__(self, context: Context, name: str, days: int) -> None:
        super().__init__(context)
        self._logs = context.client("logs")
        self._name, self._days = name, days

    @property
    def key(self) -> str:
        return f"log-group{self._name}"

    def desired(self) -> State:
        return {"retention_days": self._days}

    def observe(self) -> State | None:
        groups = self._logs.describe_log_groups(logGroupNamePrefix=self._name)["logGroups"]
        group = next((group for group in groups if group["logGroupName"] == self._name), None)
        return group and {"retention_days": group.get("retentionInDays")}

    def create(self) -> None:
        self._logs.create_log_group(logGroupName=self._name, tags=self.context.tags)
        self._put_retention()

    def update(self, changes: Changes) -> None:
        del changes  # there is only one thing that can differ
        self._put_retention()

    def delete(self) -> None:
        self._logs.delete_log_group(logGroupName=self._name)

    def _put_retention(self) -> None:
        self._logs.put_retention_policy(logGroupName=self._name, retentionInDays=self._days)
