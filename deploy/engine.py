"""Observe → diff → create, update or keep → settle. No state is stored: a resource is found again by its name.

A plan is data: it can be printed, priced and compared before a cent is spent. `apply` observes each resource again at its
turn, so a run that was interrupted anywhere is continued by the next one, and a second run writes nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from botocore.exceptions import ClientError

from deploy.context import Context
from deploy.errors import DeployError, code_of, explained

State = dict[str, Any]
Action = Literal["create", "update", "keep", "delete"]

_MISSING_CODES = ("NotFound", "NoSuch", "404")
_MISSING_WORDS = ("Could not find", "does not exist", "not found")


def found(call: Callable[..., Any], **arguments: Any) -> Any | None:
    """The answer of a describe call, None where AWS says there is no such thing."""
    try:
        return call(**arguments)
    except ClientError as error:
        message = str(error.response["Error"].get("Message", ""))
        missing = any(part in code_of(error) for part in _MISSING_CODES)
        if missing or (code_of(error) == "ValidationException" and any(word in message for word in _MISSING_WORDS)):
            return None
        raise


class Standing(ABC):
    """One thing in AWS that `destroy` takes away."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.names = context.names

    @property
    @abstractmethod
    def key(self) -> str:
        """`kind/name`, as people read it in a plan."""

    @abstractmethod
    def exists(self) -> bool:
        """Whether there is anything to delete."""

    @abstractmethod
    def delete(self) -> None: ...


class Resource(Standing):
    """One thing in AWS. `desired` and `observe` speak the same words, so their difference is what has to be done.

    `observe` only reads, and never waits: a plan must be harmless and quick.
    """

    wanted = True
    """False: the stage's file has turned it off, so it is deleted where it is found."""

    @abstractmethod
    def observe(self) -> State | None:
        """Reality; None where it does not exist."""

    def exists(self) -> bool:
        return self.observe() is not None

    @abstractmethod
    def desired(self) -> State: ...

    @abstractmethod
    def create(self) -> None: ...

    def update(self, changes: "Changes") -> None:
        """Repair exactly `changes`. Content-addressed resources never differ and do not override this."""
        raise DeployError(self.key, f"cannot be changed in place: {', '.join(changes)}", hint="delete it and apply again")

    def check(self) -> None:
        """Called before the first write of a run that would create or update this. Raises Refused."""

    def settle(self) -> None:
        """Wait until it works, after create or update. Raises DeployError where it does not."""


@dataclass(frozen=True)
class Change:
    seen: Any
    wanted: Any


Changes = dict[str, Change]


@dataclass(frozen=True, kw_only=True)
class Step:
    action: Action
    key: str
    changes: Changes

    def as_dict(self) -> dict[str, Any]:
        changes = {name: {"seen": change.seen, "wanted": change.wanted} for name, change in self.changes.items()}
        return {"action": self.action, "resource": self.key, "changes": changes}


class Engine:
    """`resources` are in order of dependence: each needs only those before it."""

    def __init__(self, resources: Sequence[Resource]) -> None:
        self.resources = list(resources)

    def plan(self) -> list[Step]:
        """Reads only. What is neither wanted nor there is not mentioned."""
        return [step for resource in self.resources if (step := _compare(resource))]

    def check(self, plan: Sequence[Step]) -> None:
        """Raises Refused before the first write, where an account's limits would refuse a later one."""
        changing = {step.key for step in plan if step.action in ("create", "update")}
        for resource in self.resources:
            if resource.key in changing:
                with explained(resource.key):
                    resource.check()

    def apply(self) -> Iterator[Step]:
        """One step at a time, as it is done; lazily, so that the caller can show progress."""
        for resource in self.resources:
            if step := _compare(resource):
                with explained(resource.key):
                    _act(resource, step)
                yield step


class Removal:
    """`standing` is in order of dependence, as an engine's resources are."""

    def __init__(self, standing: Sequence[Standing]) -> None:
        self._standing = list(reversed(standing))

    def plan(self) -> list[str]:
        """Keys of what is there, in the order in which it would go."""
        keys = []
        for one in self._standing:
            with explained(one.key):
                if one.exists():
                    keys.append(one.key)
        return keys

    def destroy(self) -> Iterator[str]:
        """The key of each thing that was there, once it is gone; lazily, so that the caller can show progress."""
        for one in self._standing:
            with explained(one.key):
                if not one.exists():
                    continue
                one.delete()
            yield one.key


def _act(resource: Resource, step: Step) -> None:
    if step.action == "create":
        resource.create()
    elif step.action == "update":
        resource.update(step.changes)
    elif step.action == "delete":
        resource.delete()
    if step.action in ("create", "update"):
        resource.settle()


def _compare(resource: Resource) -> Step | None:
    with explained(resource.key):
        if not resource.wanted:
            return Step(action="delete", key=resource.key, changes={}) if resource.exists() else None
        seen = resource.observe()
        if seen is None:
            return Step(action="create", key=resource.key, changes={})
        wanted = resource.desired()
    changes = {name: Change(seen.get(name), value) for name, value in wanted.items() if seen.get(name) != value}
    return Step(action="update" if changes else "keep", key=resource.key, changes=changes)
