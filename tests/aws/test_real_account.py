"""scripts/real_account.py's own life, call by call, in a fake account: what it sends is what a real account would get."""

import json
import re
from pathlib import Path

import pytest

from deploy import __main__ as program
from deploy import deployer_policies, iam
from deploy.config import ENVIRONMENTS
from scripts.real_account import Failed, life
from tests.support.aws import FakeClock, SharedSession, client, context, everything
from tests.support.iam_need import granted
from tests.support.life import Needing
from tests.support.released import archive, push, will_answer

DOCUMENTED = Path(__file__).parents[2] / "docs/deploy.md"


class Deploy:
    """Runs each command in this process and records its calls; docker's push and SageMaker's training are played."""

    def __init__(self, folder, capsys) -> None:
        self.folder, self.capsys, self.recorder = folder, capsys, Needing()

    def __call__(self, *words):
        if words[0] == "images":
            push("train"), push("serve")
            return {}
        will_answer()
        SharedSession.recorder = self.recorder
        code = program.main([*words, "--json", "--environments", str(self.folder)], session=SharedSession(), clock=FakeClock())
        SharedSession.recorder = None
        out, err = self.capsys.readouterr()
        if code:
            raise Failed(err)
        answer = json.loads(out)
        if words[0] == "train" and "--dry-run" not in words:
            bucket, _, key = answer["model"].removeprefix("s3://").partition("/")
            client("s3").put_object(Bucket=bucket, Key=key, Body=archive())
        return answer


@pytest.fixture
def deploy(aws, tmp_path, capsys):
    (tmp_path / "dev.toml").write_text('[stage]\nregion = "eu-west-1"\nprice_ceiling_per_month = 5000\n')
    for name in ("beagle", "poodle"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "1.jpg").write_bytes(b"photo")
    return Deploy(tmp_path, capsys)


def test_its_life_in_a_fake_account_ends_with_nothing_left(deploy, tmp_path):
    assert life(deploy, tmp_path / "photos", cap=5000)[-1] == "nothing left to write"
    assert not any(everything().values())
    sent = {str(call) for call in deploy.recorder.calls}
    assert {"sagemaker:CreateTrainingJob", "sagemaker:CreateEndpoint", "lambda:PublishVersion", "s3:DeleteBucket"} <= sent


def test_the_stage_that_comes_along_fits_the_documented_cap(deploy, tmp_path):
    (command,) = re.findall(
        r"`python -m scripts\.real_account (--stage \S+ .*?--cap \d+)`", DOCUMENTED.read_text(encoding="utf-8")
    )
    words = command.split()
    stage, cap = words[words.index("--stage") + 1], float(words[words.index("--cap") + 1])
    text = (ENVIRONMENTS / f"{stage}.toml").read_text(encoding="utf-8")
    (tmp_path / "dev.toml").write_text(text.replace("us-east-1", "eu-west-1"))  # the fake account's region
    assert life(deploy, tmp_path / "photos", cap)[-1] == "nothing left to write"


def test_a_stage_that_costs_more_than_the_cap_is_not_begun(deploy, tmp_path):
    with pytest.raises(Failed, match=r"can cost \$2\d{3}\..* a month, --cap is \$300"):
        life(deploy, tmp_path / "photos", cap=300)
    assert [str(call) for call in deploy.recorder.calls if call.writes] == []


def test_the_training_jobs_price_counts_too(deploy, tmp_path):
    """The stage alone fits; it is destroyed, and no job was started."""
    most = deploy("plan")["cost"]["ceiling_per_month"]
    with pytest.raises(Failed, match="and its training job"):
        life(deploy, tmp_path / "photos", cap=most + 1)
    assert "sagemaker:CreateTrainingJob" not in {str(call) for call in deploy.recorder.calls}
    assert not any(everything().values())


def test_every_call_of_it_is_granted_to_whoever_holds_all_duties(deploy, tmp_path):
    life(deploy, tmp_path / "photos", cap=5000)
    scope = iam.Scope.of(context().names, context().config)
    documents = [deployer_policies.deployer(scope, duty) for duty in deployer_policies.DUTIES]
    assert [str(need) for need in deploy.recorder.needs if not granted(documents, need)] == []
