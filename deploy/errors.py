"""Deploy's branch of the error tree: where it went wrong, what AWS said, what to try. Exit 1."""

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    IncompleteReadError,
    NoCredentialsError,
    NoRegionError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError

from containers.core.errors import Error
from deploy.hints import hint_for


class DeployError(Error):
    """`where` names the resource or command, `code` is AWS's where AWS answered with an error.

    `hint` says what to try, and who must where that is not the reader: nobody is left with a problem alone.
    """

    exit_code = 1

    def __init__(self, where: str, problem: str, *, hint: str, code: str = "") -> None:
        self.where, self.problem, self.hint, self.code = where, problem, hint, code
        super().__init__(f"{where}: {problem}\n  try: {hint}")


class Refused(DeployError):
    """Stopped before anything was written: a limit, a quota, a guard of our own."""

    exit_code = 2


class TimedOut(DeployError):
    """Nothing is broken for sure: the same command may be run again and goes on waiting."""


def code_of(error: ClientError) -> str:
    """`ResourceNotFoundException`, `404`, …"""
    return str(error.response["Error"].get("Code", ""))


def _hint(error: ClientError) -> str:
    metadata = error.response.get("ResponseMetadata", {})
    status, request_id = int(metadata.get("HTTPStatusCode", 0)), str(metadata.get("RequestId", ""))
    return hint_for(code_of(error), status=status, operation=error.operation_name, request_id=request_id)


_CUT = "`status` shows what was done; then run the same command again. A proxy or the network breaks answers"


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn botocore's exceptions into a DeployError about `where`."""
    try:
        yield
    except ClientError as error:
        code, message = code_of(error), error.response["Error"].get("Message", "no message")
        problem = f"AWS answered {code} to {error.operation_name}: {message}"
        raise DeployError(where, problem, hint=_hint(error), code=code) from error
    except (NoCredentialsError, TokenRetrievalError) as error:
        raise DeployError(where, str(error), hint="set AWS_PROFILE, or log in (aws sso login)") from error
    except NoRegionError as error:
        raise DeployError(where, str(error), hint="set region in the stage's file") from error
    except EndpointConnectionError as error:
        raise DeployError(where, str(error), hint="check the network, the proxy and the stage's region") from error
    except (ResponseParserError, IncompleteReadError) as error:  # the first's text is the whole answer
        problem = "AWS's answer arrived cut short or altered"
        raise DeployError(where, problem, hint=_CUT) from error
    except BotoCoreError as error:
        hint = "look at the names and addresses in flags and file; where the network failed, run the same command again"
        raise DeployError(where, str(error), hint=hint) from error
