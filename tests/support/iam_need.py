"""Something that IAM asks for, and whether documents grant it: a small evaluator of our own.

moto's enforcement cannot prove least privilege (resources are `*` there, conditions are mostly not looked at), and AWS's
simulator needs an account.
"""

import fnmatch
from dataclasses import dataclass, field

ACCOUNT_WIDE = "*"


@dataclass(frozen=True)
class Need:
    action: str
    resource: str = ACCOUNT_WIDE
    context: dict = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.action} on {self.resource}" + (f" with {self.context}" if self.context else "")


def granted(documents, need: Need) -> bool:
    """Whether any Allow statement matches; none of ours denies."""
    return any(_allows(statement, need) for document in documents for statement in document["Statement"])


def _allows(statement, need: Need) -> bool:
    actions, resources = _listed(statement["Action"]), _listed(statement["Resource"])
    if not any(fnmatch.fnmatchcase(need.action.lower(), action.lower()) for action in actions):
        return False
    if not any(fnmatch.fnmatchcase(need.resource, resource) for resource in resources):
        return False
    return all(
        _holds(operator, need.context.get(key), _listed(wanted))
        for operator, keys in statement.get("Condition", {}).items()
        for key, wanted in keys.items()
    )


def _holds(operator, value, wanted) -> bool:
    if operator == "Null":
        return wanted == [str(value is None).lower()]
    if value is None:
        return False
    if operator in ("StringEquals", "ArnEquals", "Bool"):
        return value in wanted
    if operator in ("StringLike", "ArnLike"):
        return any(fnmatch.fnmatchcase(value, pattern) for pattern in wanted)
    raise NotImplementedError(operator)


def _listed(value):
    return [value] if isinstance(value, str) else value
