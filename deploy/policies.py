"""`policies`: print the IAM document of a principal or of a deployer's duty. Needs no credentials; nothing is written."""

import argparse
import json
import re
from typing import Any

from containers.core.errors import ConfigError
from deploy import deployer_policies, iam
from deploy.context import Context
from deploy.errors import DeployError

MANAGED = 6144
"""Characters of one managed policy, white space not counted (IAM user guide, "IAM and AWS STS quotas")."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = [*iam.PRINCIPALS, "boundary", *(f"deployer-{duty}" for duty in deployer_policies.DUTIES)]
    parser.add_argument("which", nargs="*", help=f"any of {', '.join(kinds)} (default: all)")
    parser.add_argument("--account", default="", help="account number in the documents (default: the file's, else yours)")


def run(args: argparse.Namespace, context: Context) -> None:
    if args.account and not re.fullmatch("[0-9]{12}", args.account):
        raise ConfigError(f"--account {args.account}: an account number has 12 digits")
    account = args.account or context.config.stage.account or context.account
    documents = every_document(iam.Scope.of(context.names_in(account), context.config))
    unknown = [name for name in args.which if name not in documents]
    if unknown:
        raise DeployError("policies", f"no such document: {', '.join(unknown)}", hint=f"there are {', '.join(documents)}")
    chosen = {name: documents[name] for name in args.which or documents}
    text = json.dumps(chosen if len(chosen) > 1 else next(iter(chosen.values())), indent=2)
    for name, document in chosen.items():
        if (size := len(json.dumps(document, separators=(",", ":")))) > MANAGED:
            context.say(
                f"{name} has {size} characters, a managed policy takes {MANAGED}: give it as an inline one, or shorten names"
            )
    context.emit(chosen, lambda: text)


def every_document(scope: iam.Scope) -> dict[str, dict[str, Any]]:
    """All of a stage, trust documents included (`trust-…`)."""
    documents = {principal: iam.role_policy(scope, principal) for principal in iam.PRINCIPALS}
    documents |= {f"trust-{principal}": iam.trust(scope, principal) for principal in iam.PRINCIPALS}
    documents["boundary"] = iam.boundary(scope)
    duties = deployer_policies.DUTIES
    return documents | {f"deployer-{duty}": deployer_policies.deployer(scope, duty) for duty in duties}
