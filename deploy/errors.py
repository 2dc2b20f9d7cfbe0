"""Deploy's branch of the error tree: where it went wrong, what AWS said, what to try. Exit 1."""

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConfigNotFound,
    ConfigParseError,
    CredentialRetrievalError,
    EndpointConnectionError,
    IncompleteReadError,
    InvalidConfigError,
    LoginError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError

from containers.core.errors import Error
from deploy.hints import hint_for, is_about_credentials


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

# What nobody can begin without → what to do about it: nothing was sent yet.
_UNSET: dict[type[BotoCoreError], str] = {
    NoCredentialsError: "log in (`aws configure`, or `aws sso login`), or set AWS_PROFILE to a profile that has credentials",
    PartialCredentialsError: "give the one that is missing, or none of them and AWS_PROFILE",
    ProfileNotFound: "set AWS_PROFILE to one that `aws configure list-profiles` shows, or unset it",
    NoRegionError: "set region in the stage's file",
    ConfigNotFound: "let AWS_CONFIG_FILE name a file that is there, or unset it",
    ConfigParseError: "mend that file; `aws configure` writes it",
    InvalidConfigError: "mend that profile: `aws configure` writes it; AWS_PROFILE chooses another",
}
# These may end while a command runs, too.
_LOST = (TokenRetrievalError, SSOError, LoginError, CredentialRetrievalError)
_AGAIN = "log in again (`aws sso login`, or as this profile does), or set AWS_PROFILE to another one"


@contextmanager
def explained(where: str, *, first: bool = False) -> Iterator[None]:
    """Turn botocore's exceptions into a DeployError about `where`.

    `first`: AWS was asked nothing before, so credentials that it does not take are Refused.
    """
    kind = Refused if first else DeployError
    try:
        yield
    except ClientError as error:
        code, message = code_of(error), error.response["Error"].get("Message", "no message")
        problem = f"AWS answered {code} to {error.operation_name}: {message}"
        kind = kind if is_about_credentials(code) else DeployError
        raise kind(where, problem, hint=_hint(error), code=code) from error
    except tuple(_UNSET) as error:
        raise Refused(where, str(error), hint=next(hint for of, hint in _UNSET.items() if isinstance(error, of))) from error
    except _LOST as error:
        raise kind(where, str(error), hint=_AGAIN) from error
    except EndpointConnectionError as error:
        raise DeployError(where, str(error), hint="check the network, the proxy and the stage's region") from error
    except (ResponseParserError, IncompleteReadError) as error:  # the first's text is the whole answer
        problem = "AWS's answer arrived cut short or altered"
        raise DeployError(where, problem, hint=_CUT) from error
    except BotoCoreError as error:
        hint = "look at the names and addresses in flags and file; where the network failed, run the same command again"
        raise DeployError(where, str(error), hint=hint) from error
