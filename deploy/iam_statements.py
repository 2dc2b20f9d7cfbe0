"""What IAM documents are made of. Pure: no names of ours, no AWS."""

from typing import Any

Document = dict[str, Any]
Statement = dict[str, Any]


def allow(sid: str, actions: str | list[str], resources: str | list[str], **conditions: dict[str, Any]) -> Statement:
    """`conditions` are operator=…: StringEquals={key: value}."""
    listed = [actions] if isinstance(actions, str) else sorted(actions)
    statement: Statement = {"Sid": sid, "Effect": "Allow", "Action": listed, "Resource": resources}
    return statement | ({"Condition": conditions} if conditions else {})


def document(*statements: Statement | list[Statement] | None) -> Document:
    """Lists are flattened, None left out."""
    flat: list[Statement] = []
    for statement in statements:
        flat += statement if isinstance(statement, list) else [statement] if statement else []
    return {"Version": "2012-10-17", "Statement": flat}
