"""Jobs of the stage that still run. `destroy` stops them: they would go on costing, with a role that is gone."""

import re
from functools import partial
from typing import Any

from botocore.exceptions import ClientError

from deploy.context import Context
from deploy.engine import Standing
from deploy.errors import code_of

_KINDS = ("HyperParameterTuningJob", "TrainingJob", "TransformJob")  # a search first: it would start another trial
_ALIVE = ("InProgress", "Stopping")


class RunningJobs(Standing):
    """Of `train`, `tune` and `transform`. Stopping takes as long as writing a checkpoint: SageMaker gives two minutes."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._sagemaker = context.client("sagemaker")

    @property
    def key(self) -> str:
        return f"jobs/{self.names.base}"

    def exists(self) -> bool:
        return bool(self.alive())

    def delete(self) -> None:
        for kind in _KINDS:
            for name in self.named(kind, "InProgress"):
                self._stop(kind, name)
        for kind, name in self.alive():
            self.context.wait(f"{name} to end", partial(self._life, kind, name), until={"ended"}, limit_seconds=1800)

    def alive(self) -> list[tuple[str, str]]:
        """(kind, name) of each."""
        return [(kind, name) for kind in _KINDS for state in _ALIVE for name in self.named(kind, state)]

    def named(self, kind: str, state: str) -> list[str]:
        """Those of this kind (one of `_KINDS`) and state. A job's name is the stage's base and a date; a stage's name begins
        with a letter, so no other stage looks alike.
        """
        ours = re.compile(re.escape(self.names.base) + r"-\d")
        pages = self._sagemaker.get_paginator(f"list_{_snake(kind)}s").paginate(
            NameContains=f"{self.names.base}-", StatusEquals=state
        )
        names = [str(row[f"{kind}Name"]) for page in pages for row in page[f"{kind}Summaries"]]
        return [name for name in names if ours.match(name)]

    def _stop(self, kind: str, name: str) -> None:
        try:
            self._call("stop", kind, name)
        except ClientError as error:
            if code_of(error) != "ValidationException" or self._status(kind, name) == "InProgress":
                raise  # otherwise it ended in this moment

    def _life(self, kind: str, name: str) -> str:
        return "alive" if self._status(kind, name) in _ALIVE else "ended"

    def _status(self, kind: str, name: str) -> str:
        return str(self._call("describe", kind, name)[f"{kind}Status"])

    def _call(self, verb: str, kind: str, name: str) -> Any:
        return getattr(self._sagemaker, f"{verb}_{_snake(kind)}")(**{f"{kind}Name": name})


def _snake(kind: str) -> str:
    """`TrainingJob` → `training_job`, as boto3 writes operations."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind).lower()
