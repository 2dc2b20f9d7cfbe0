"""The instances' start-up script, run in real bash."""

import json
import tarfile
from pathlib import Path

import pytest

from containers.core.errors import ConfigError
from containers.train.config import TrainConfig
from containers.train.sagemaker import read_job
from deploy.ec2_request import user_data
from deploy.training_request import Run
from tests.support import aws as fake
from tests.support.instance import FAIL, SUCCEED, UNTIL_STOPPED, WRITE_CHECKPOINT, boot, check_script

EVIL = "'; touch $T/pwned; `touch $T/pwned` $(touch $T/pwned) \" \\ é"
BUCKET = f"kennel-dev-{fake.ACCOUNT}-{fake.REGION}"


def script(*, nodes: int = 1, kind: str = "g4dn.2xlarge", settings: TrainConfig | None = None) -> str:
    config = fake.stage(ec2={"instance_count": nodes, "instance_type": kind})
    run = Run(
        name="r1",
        image="123456789012.dkr.ecr.eu-west-1.amazonaws.com/kennel/dev/train@sha256:" + "a" * 64,
        dataset="dogs",
        channels=("train", "valid"),
        hyperparameters=settings or TrainConfig(),
        checkpoints="r0",
    )
    return user_data(config, fake.context(config).names_in(fake.ACCOUNT), run)


def status(instance, host="algo-1") -> dict:
    return json.loads((instance.bucket / BUCKET / f"ec2/r1/status/{host}.json").read_text())


DATA = {f"{BUCKET}/data/dogs/train/pug/a.jpg": "photo", f"{BUCKET}/data/dogs/valid/pug/b.jpg": "photo"}


def test_it_is_clean_bash_and_fits():
    text = script(nodes=16)
    check_script(text)


def test_a_run_that_succeeds(tmp_path: Path):
    before = DATA | {f"{BUCKET}/checkpoints/r0/c": "from the run before"}
    container = f'cp -r "$ML" "$T/seen"; {SUCCEED}'
    instance = boot(
        tmp_path, script(settings=TrainConfig.model_construct(architecture=EVIL)), container=container, before=before
    )
    assert instance.exit_code == 0, instance.output
    assert instance.calls[0] == "shutdown -h +360"  # before anything can fail
    assert instance.calls[-1] == "shutdown -h now"
    assert status(instance) == {"run": "r1", "host": "algo-1", "instance": "i-0123456789", "exit_code": 0, "interrupted": ""}
    assert instance.calls[-2].endswith("status/algo-1.json")  # last of all: it means that everything else is there
    with tarfile.open(instance.bucket / BUCKET / "training/r1/output/model.tar.gz") as model:
        assert "./w" in model.getnames()
    assert (instance.bucket / BUCKET / "checkpoints/r0/c").read_text() == "state\n"
    assert (tmp_path / "seen/checkpoints/c").read_text() == "from the run before"

    hyperparameters = tmp_path / "seen/input/config/hyperparameters.json"
    came = json.loads(hyperparameters.read_text())
    assert came["architecture"] == EVIL  # as it was sent, though no job takes it
    assert not (tmp_path / "pwned").exists()
    hyperparameters.write_text(json.dumps(came | {"architecture": "resnet18"}))
    job = read_job(tmp_path / "seen", environ={"TRAINING_JOB_NAME": "r1"}, interfaces=["ens5"])
    assert job.config.architecture == "resnet18"
    assert set(job.channels) == {"train", "valid"}
    assert (tmp_path / "seen/input/data/train/pug/a.jpg").read_text() == "photo"
    run = instance.call("docker run")
    for part in (
        "--user 10001:10001",
        "--gpus all",
        "--security-opt no-new-privileges",
        "awslogs-stream=r1/algo-1",
        "@sha256:",
    ):
        assert part in run
    assert "--hostname algo-1" in run
    assert "--network" not in run
    assert (tmp_path / "password").read_text() == "secret-password\n"
    assert not any("secret-password" in call for call in instance.calls)


def test_a_last_checkpoint_that_cannot_be_copied_costs_no_finished_model(tmp_path):
    instance = boot(tmp_path, script(), before=DATA, NO_SYNC_TO="checkpoints")
    assert instance.exit_code == 0, instance.output
    assert status(instance)["exit_code"] == 0
    with tarfile.open(instance.bucket / BUCKET / "training/r1/output/model.tar.gz") as model:
        assert "./w" in model.getnames()
    assert "the last checkpoint could not be copied" in instance.output
    assert instance.calls[-1] == "shutdown -h now"


def test_a_container_that_fails_still_reports_and_ends_the_instance(tmp_path):
    instance = boot(tmp_path, script(), container=FAIL, before=DATA)
    assert instance.exit_code == 3
    assert instance.calls[-1] == "shutdown -h now"
    assert status(instance)["exit_code"] == 3
    output = instance.bucket / BUCKET / "ec2/r1/output/algo-1"
    assert "NonFiniteLoss" in (output / "failure").read_text()
    assert "NonFiniteLoss" in (output / "instance.log").read_text()
    assert not (instance.bucket / BUCKET / "training").exists()


@pytest.mark.parametrize(("trouble", "code", "says"), [("NO_GPU", 66, "no driver"), ("NO_IMAGE", 1, "pull: no such image")])
def test_what_stops_it_before_training(tmp_path, trouble, code, says):
    instance = boot(tmp_path, script(), before=DATA, **{trouble: "1"})
    assert instance.exit_code == code
    assert instance.calls[-1] == "shutdown -h now"
    assert status(instance)["exit_code"] == code
    assert not instance.called("docker run")
    assert says in (instance.bucket / BUCKET / "ec2/r1/output/algo-1/instance.log").read_text()


def test_the_instances_own_disk_is_used_once_it_is_mounted(tmp_path):
    """The machine image mounts it while user data runs."""
    instance = boot(tmp_path, script(), before=DATA, DISK_AFTER="2")
    assert instance.exit_code == 0, instance.output
    assert sum(call.startswith("systemctl is-active") for call in instance.calls) == 3
    assert f"-v {instance.root}/opt/dlami/nvme/ml:/opt/ml" in instance.call("docker run")
    assert (instance.root / "opt/dlami/nvme/ml/input/data/train/pug/a.jpg").exists()


def test_a_cpu_type_asks_for_no_gpu(tmp_path):
    instance = boot(tmp_path, script(kind="c6i.large"), before=DATA, NO_GPU="1")
    assert instance.exit_code == 0
    assert "--gpus" not in instance.call("docker run")


@pytest.mark.parametrize(
    ("why", "before", "environment"),
    [("spot notice", {}, {"SPOT": "1"}), ("asked to stop", {f"{BUCKET}/ec2/r1/stop": ""}, {})],
)
def test_a_notice_or_a_request_to_stop_saves_the_checkpoint_and_claims_no_model(tmp_path, why, before, environment):
    instance = boot(tmp_path, script(), container=UNTIL_STOPPED, before=DATA | before, **environment)
    assert instance.exit_code == 0, instance.output
    assert status(instance)["interrupted"] == why
    assert instance.called("docker stop -t 90 train")
    assert (instance.bucket / BUCKET / "checkpoints/r0/c").read_text() == "state\n"
    assert not (instance.bucket / BUCKET / "training").exists()
    assert instance.calls[-1] == "shutdown -h now"


def peer(number: int) -> dict[str, str]:
    return {f"{BUCKET}/ec2/r1/rendezvous/algo-{number}": f"10.0.0.{9 + number}"}


def test_the_second_of_two_nodes(tmp_path):
    before = DATA | peer(1) | {f"{BUCKET}/checkpoints/r0/latest.json": "of the run before"}
    container = 'cp -r "$ML" "$T/seen"; cp "$ML/checkpoints/latest.json" "$ML/checkpoints/c"'
    elastic = TrainConfig(min_hosts=1)
    instance = boot(tmp_path, script(nodes=2, settings=elastic), container=container, before=before, INDEX="1")
    assert instance.exit_code == 0, instance.output
    assert (instance.bucket / BUCKET / "ec2/r1/rendezvous/algo-2").read_text() == "10.0.0.11"
    run = instance.call("docker run")
    assert "--network host --add-host algo-1:10.0.0.10 --add-host algo-2:10.0.0.11" in run
    assert instance.called("iptables -I OUTPUT -d 169.254.169.254 -m owner --uid-owner 10001 -j REJECT")
    job = read_job(tmp_path / "seen", environ={}, interfaces=["ens5"])
    assert job.config.min_hosts == 1
    cluster = job.cluster
    assert (cluster.hosts, cluster.current_host, cluster.network_interface) == (("algo-1", "algo-2"), "algo-2", "ens5")
    assert not (instance.bucket / BUCKET / "training").exists()  # rank 0's host brings the model
    assert not (instance.bucket / BUCKET / "checkpoints/r0/c").exists()  # and the checkpoints: here are copies only
    assert status(instance, "algo-2")["exit_code"] == 0


def test_only_the_first_host_brings_model_and_checkpoints(tmp_path):
    """Rank 0 is there. Whatever lies on another host's disk, late or not, stays there."""
    first = boot(tmp_path / "1", script(nodes=2), before=DATA | peer(1) | peer(2))
    brought = {
        f"{BUCKET}/training/r1/output/model.tar.gz": "the first host's",
        f"{BUCKET}/checkpoints/r0/c": "the first host's",
    }
    late = f"{SUCCEED}; sleep 1"  # `keep` looks meanwhile
    second = boot(tmp_path / "2", script(nodes=2), container=late, before=DATA | peer(1) | peer(2) | brought, INDEX="1")
    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    with tarfile.open(first.bucket / BUCKET / "training/r1/output/model.tar.gz") as model:
        assert {"./w", "./manifest.json"} <= set(model.getnames())
    assert (first.bucket / BUCKET / "checkpoints/r0/c").read_text() == "state\n"
    assert {(second.bucket / name).read_text() for name in brought} == {"the first host's"}
    assert status(second, "algo-2")["exit_code"] == 0


def test_checkpoints_are_saved_on_the_way_when_there_is_a_new_one(tmp_path):
    """A host whose rank moved away must not bring its old ones again, over those of the host that goes on."""
    container = (
        f'{WRITE_CHECKPOINT}; for _ in $(seq 300); do [ -e "$T/s3/{BUCKET}/checkpoints/r0/c" ] && break; sleep 0.1; done'
    )
    instance = boot(tmp_path, script(), container=f"{container}; sleep 5", before=DATA)
    saves = [call for call in instance.calls if call.startswith("aws s3 sync") and "--delete" in call]
    assert len(saves) == 1, instance.calls
    assert (instance.bucket / BUCKET / "checkpoints/r0/c").read_text() == "state\n"


def test_a_copy_on_the_way_is_over_before_the_last_one_begins(tmp_path):
    """Training writes its last checkpoint, and ends, in the middle of it."""
    begun = 'until grep -q "^aws s3 sync .*--delete" "$T/calls"; do sleep 0.1; done'
    container = f'{WRITE_CHECKPOINT}; {begun}; sleep 1.1; echo last >"$ML/checkpoints/c"; touch "$ML/checkpoints/latest.json"'
    instance = boot(tmp_path, script(), container=container, before=DATA, SLOW_SYNC="3")
    copies = [call.split()[-1] for call in instance.calls if call == "synced" or "--delete" in call]
    where = f"s3://{BUCKET}/checkpoints/r0"
    last = copies.index(where)
    assert copies[last : last + 4] == [where, "synced"] * 2, instance.calls
    assert (instance.bucket / BUCKET / "checkpoints/r0/c").read_text() == "last\n"


def test_a_peer_that_never_comes_ends_the_wait(tmp_path):
    instance = boot(tmp_path, script(nodes=2), before=DATA, POLL="0.001")
    assert instance.exit_code == 65
    assert "algo-2 never came" in instance.output
    assert instance.calls[-1] == "shutdown -h now"


def test_a_script_that_is_too_long_names_what_is_long():
    with pytest.raises(ConfigError, match=r"start-up script has \d+ bytes, EC2 takes 16384: shorten hyperparameters"):
        script(settings=TrainConfig.model_construct(architecture="x" * 16_000))
