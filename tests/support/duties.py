"""Which of the deployers' documents each command needs, and a look at every call that it makes: do they grant it?"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from containers.core.errors import ConfigError
from deploy import config, deployer_policies, iam
from tests.support.aws import ACCOUNT, Call, SharedSession, context
from tests.support.iam_calls import needs
from tests.support.iam_need import Need, granted

NEEDED = {  # command → the deployer documents that it needs
    "plan": ["watch"],
    "status": ["watch"],
    "smoke": ["watch", "release"],
    "apply": ["guard", "watch", "foundation", "release"],
    "images": ["watch", "images"],
    "release": ["watch", "release"],
    "rollback": ["watch", "release"],
    "transform": ["watch", "data", "release"],
    "data": ["watch", "data"],
    "train": ["watch", "training"],
    "tune": ["watch", "training"],
    "train-ec2": ["watch", "ec2"],
    "release-ec2": ["watch", "release", "ec2"],
    "loadtest": ["watch", "release"],
    "logs": ["watch"],
    "policies": ["watch"],
    "export-cfn": ["watch"],
    "costs": [],
    "simulate": [],
    "destroy": ["guard", "watch", "foundation", "training", "release", "ec2"],
}


def duty_of(words: Sequence[str]) -> str | None:
    """NEEDED's key for a command line; None where it names no command."""
    command = next((word for word in words if word in NEEDED), None)
    on_ec2 = command in ("train", "release") and ("--on", "ec2") in pairwise(words)
    return f"{command}-ec2" if on_ec2 else command


class Judge:
    """Passes every call on to `recorder`. `refused`: what `duty`'s documents do not grant, as IAM would say then."""

    def __init__(self, duty: str, settings: config.StageConfig, recorder=None) -> None:
        self._names = context(settings).names_in(ACCOUNT)
        scope = iam.Scope.of(self._names, settings)
        self._documents = [deployer_policies.deployer(scope, name) for name in NEEDED[duty]]
        self._recorder, self._seen = recorder, set()
        self.duty, self.refused = duty, []

    def __call__(self, params, model, **more) -> None:
        if self._recorder is not None:
            self._recorder(params=params, model=model, **more)
        for need in needs(Call.of(params, model), self._names):
            self._judge(need)

    def _judge(self, need: Need) -> None:
        if (text := str(need)) in self._seen:
            return
        self._seen.add(text)
        if not granted(self._documents, need):
            self.refused.append(text)


@contextmanager
def held_to(words: Sequence[str], settings: config.StageConfig | Path, recorder=None) -> Iterator[None]:
    """Calls through the shared session are those of this command. Raises AssertionError for one that its documents refuse.

    `settings`: the stage's, or its file; one that cannot be read is the test's own affair.
    """
    duty = duty_of(words)
    if isinstance(settings, Path):
        settings = _read(settings)
    judge = Judge(duty, settings, recorder) if duty and settings else None
    SharedSession.recorder = judge or recorder
    try:
        yield
    finally:
        SharedSession.recorder = None
        assert judge is None or not judge.refused, f"{duty} may not {', '.join(judge.refused)}"


def _read(path: Path) -> config.StageConfig | None:
    try:
        return config.read(path)
    except ConfigError:
        return None
