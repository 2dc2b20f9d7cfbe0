"""The order of a stage's life, and that it is destroyed whatever happens."""

import pytest

from scripts.real_account import Failed, life, main


class Deploy:
    """Remembers commands; one of them can fail."""

    def __init__(self, *, ceiling=100.0, job=2.0, fails="", second_apply=(), standing=()) -> None:
        self.commands, self.ceiling, self.fails, self.second_apply = [], ceiling, fails, list(second_apply)
        self.job = job
        self.standing = list(standing)

    def __call__(self, command, *words):
        if "--dry-run" in words:
            return {"would_delete": self.standing, "cost": {"at_most": self.job}}
        self.commands.append(command)
        if command == self.fails:
            raise Failed(command)
        steps = self.second_apply if self.commands.count("apply") == 2 else []
        return {"cost": {"ceiling_per_month": self.ceiling}, "job": "job-1", "steps": steps}


def test_everything_once_and_then_nothing_left_to_write(tmp_path):
    deploy = Deploy()
    assert life(deploy, tmp_path, 300)[-1] == "nothing left to write"
    order = ["plan", "apply", "images", "data", "train", "release", "smoke", "apply", "destroy"]
    assert deploy.commands == order


def test_too_dear_a_stage_is_never_begun(tmp_path):
    for ceiling in (301.0, None):
        deploy = Deploy(ceiling=ceiling)
        with pytest.raises(Failed, match="can cost"):
            life(deploy, tmp_path, 300)
        assert deploy.commands == ["plan"]


@pytest.mark.parametrize("job", [201.0, None])
def test_too_dear_a_training_job_is_never_begun(tmp_path, job):
    deploy = Deploy(job=job)
    with pytest.raises(Failed, match=r"a month of the stage \(\$100.00\) and its training job"):
        life(deploy, tmp_path, 300)
    assert deploy.commands == ["plan", "apply", "images", "data", "destroy"]


def test_a_stage_that_stands_already_is_left_alone(tmp_path):
    deploy = Deploy(standing=["endpoint/kennel-prod"])
    with pytest.raises(Failed, match="stands already"):
        life(deploy, tmp_path, 300)
    assert deploy.commands == ["plan"]


@pytest.mark.parametrize("command", ["apply", "images", "data", "train", "release", "smoke"])
def test_it_is_destroyed_whatever_fails(tmp_path, command):
    deploy = Deploy(fails=command)
    with pytest.raises(Failed):
        life(deploy, tmp_path, 300)
    assert deploy.commands[-1] == "destroy"


def test_a_second_apply_that_writes_is_a_failure(tmp_path):
    deploy = Deploy(second_apply=[{"action": "update", "resource": "bucket"}])
    with pytest.raises(Failed, match="wanted to write"):
        life(deploy, tmp_path, 300)
    assert deploy.commands[-1] == "destroy"


def test_after_its_hours_nothing_more_is_begun(capsys):
    assert main(["--stage", "trial", "--photos", "photos", "--cap", "300", "--hours", "0"]) == 1
    assert "0 hours have passed before plan" in capsys.readouterr().err
