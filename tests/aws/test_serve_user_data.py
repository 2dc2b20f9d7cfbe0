"""The start-up script of the instance that serves, run in real bash."""

import io
import json
import re
import shutil
import tarfile
from pathlib import Path

import pytest

from deploy.ec2_serving import user_data
from tests.support import aws as fake
from tests.support.instance import PROGRAMS, boot, check_script

BUCKET = f"kennel-dev-{fake.ACCOUNT}-{fake.REGION}"
STATUS = "ec2/r1/status.json"


def script(kind: str = "g4dn.xlarge", **serving) -> str:
    config = fake.stage(ec2_serving={"instance_type": kind, "start_minutes": 5, "port": 9000}, serving=serving)
    return user_data(config, fake.context(config).names_in(fake.ACCOUNT), "r1", fake.release())


def archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        entry = tarfile.TarInfo("./manifest.json")
        entry.size = 2
        tar.addfile(entry, io.BytesIO(b"{}"))
    return buffer.getvalue()


def serve(folder: Path, text: str, pings: list[int | str], *, model: bytes | None = None, **environment: str):
    """`pings` are the answers to /ping in order; the watch ends after the last."""
    (folder / "pings").write_text("".join(f"{answer}\n" for answer in pings))
    before = {f"{BUCKET}/training/job-a/output/model.tar.gz": archive() if model is None else model}
    options = {"programs": (*PROGRAMS, "sleep"), "log": "kennel-serve.log", "container": "true", "NAPS": str(len(pings) - 1)}
    return boot(folder, text, before=before, **options, **environment)


def status(instance) -> dict:
    return json.loads((instance.bucket / BUCKET / STATUS).read_text())


def reports(instance) -> list[str]:
    return re.findall(r"Z (healthy|unhealthy|failed):", instance.output)


def test_it_is_clean_bash_and_fits():
    text = script(engine="eager")
    check_script(text)


def test_it_serves_and_says_where(tmp_path):
    instance = serve(tmp_path, script(engine="eager", top_k=3), [503, 503, 200, 200])
    assert instance.calls[0] == "shutdown -h +15"  # before anything can fail
    assert instance.called("shutdown -c")
    assert not instance.called("shutdown -h now")
    told = status(instance)
    assert (told["release"], told["state"], told["address"], told["port"]) == ("r1", "healthy", "10.0.0.10", 9000)
    run = instance.call("docker run -d")
    for part in (
        "--gpus all", "--restart unless-stopped", "--user 10001:10001", "--read-only", "--cap-drop ALL", "-p 9000:8080",
        "no-new-privileges", ":/opt/ml/model:ro", "-e SERVE_PORT=8080", "awslogs-stream=r1/i-0123456789", "@sha256:",
    ):  # fmt: skip
        assert part in run
    assert run.endswith(" serve")
    assert (tmp_path / "root/opt/ml/model/manifest.json").read_text() == "{}"
    environment = "SERVE_ENGINE=eager\nSERVE_LOAD_TIMEOUT_SECONDS=120.0\nSERVE_TOP_K=3\n"  # 5 minutes to start: 2 to load
    assert (tmp_path / "root/run/kennel/environment").read_text() == environment
    assert (tmp_path / "password").read_text() == "secret-password\n"
    assert not any("secret-password" in call for call in instance.calls)


def restarts(instance) -> int:
    return sum(call.startswith("docker restart") for call in instance.calls)


def test_a_server_that_goes_quiet_is_restarted_and_both_are_told(tmp_path):
    quiet = [503, 503, 503]
    instance = serve(tmp_path, script(), [200, 200, 503, 503, 200, *quiet, *quiet, *quiet, 200])
    assert reports(instance) == ["healthy", "unhealthy", "healthy"], instance.output
    assert restarts(instance) == 1, "a restart takes its time"
    assert not instance.called("shutdown -h now")


START = 5 * 6  # turns of ten seconds in `start_minutes`


def test_a_restarted_container_has_as_long_as_the_first_start_had(tmp_path):
    """A big model would otherwise be restarted for ever, each time just before it is loaded."""
    instance = serve(tmp_path, script(), [200, *[503] * 3, *[503] * (START - 1), 200, 200])
    assert (restarts(instance), status(instance)["state"]) == (1, "healthy"), instance.output


def test_one_that_does_not_come_back_in_that_time_is_restarted_again(tmp_path):
    instance = serve(tmp_path, script(), [200, *[503] * 3, *[503] * START, *[503] * (START - 1)])
    assert (restarts(instance), status(instance)["state"]) == (2, "unhealthy"), instance.output


def test_one_that_docker_started_again_has_that_time_too(tmp_path):
    """Out of memory, say: three missed answers later it is still loading its model."""
    instance = serve(tmp_path, script(), [200, 200, "crashed", *[503] * (START - 2), 200, *[503] * 3])
    assert reports(instance)[:3] == ["healthy", "unhealthy", "unhealthy"], "that it is slow is told while it lasts"
    assert "healthy" in reports(instance)[3:]
    assert restarts(instance) == 1, "only once it had answered and went quiet"


def test_the_container_goes_on_where_the_watch_ends(tmp_path):
    instance = serve(tmp_path, script(), [200, 200])
    assert instance.exit_code == 0
    assert not instance.called("shutdown -h now")
    assert not instance.called("docker stop")


@pytest.mark.parametrize(
    ("trouble", "code", "reason"),
    [
        ({"NO_GPU": "1"}, 66, "no GPU, or no driver on this machine image"),
        ({"model": b"not an archive"}, 67, "the model could not be fetched"),
        ({"NO_IMAGE": "1"}, 69, "the image could not be pulled"),
        ({"MINUTE": "0"}, 71, "no healthy answer within 5 minutes"),
        ({"RESTARTS": "3"}, 72, "the server ended three times"),
    ],
)
def test_an_instance_that_never_serves_says_why_and_ends_itself(tmp_path, trouble, code, reason):
    instance = serve(tmp_path, script(), [503] * 9, **trouble)
    assert instance.exit_code == code, instance.output
    told = status(instance)
    assert (told["state"], told["reason"]) == ("failed", reason)
    assert instance.calls[-1] == "shutdown -h now"
    assert instance.calls[-2].endswith(STATUS)  # last of all: it means that the log is there
    assert "the container's last words" in (instance.bucket / BUCKET / "ec2/r1/instance.log").read_text()


def test_after_a_reboot_only_the_watch_begins_again(tmp_path):
    text = script()
    serve(tmp_path, text, [200])
    again = tmp_path / "root/var/lib/cloud/scripts/per-boot/kennel-serve"
    assert again.read_text() == text
    (tmp_path / "calls").unlink()
    shutil.rmtree(tmp_path / "bin")
    instance = serve(tmp_path, again.read_text(), [200])
    assert not instance.called("docker run")
    assert not instance.called("docker pull")
    assert status(instance)["state"] == "healthy"


def booted_again(folder, pings, **trouble):
    """What user data left for the next boot, run; `calls` are those of this boot."""
    for name in ("calls", "naps", "docker-runs"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "bin")
    again = folder / "root/var/lib/cloud/scripts/per-boot/kennel-serve"
    return serve(folder, again.read_text(), pings, **trouble)


@pytest.mark.parametrize("trouble", [{"NO_GPU": "1"}, {"MINUTE": "0"}, {"RESTARTS": "3"}, {"NO_IMAGE": "1"}])
def test_one_that_has_served_is_not_ended_by_a_reboot(tmp_path, trouble):
    """Not even where Docker and the model are slow to come: it may be the only one."""
    serve(tmp_path, script(), [200])
    (tmp_path / "container").unlink()  # Docker does not answer yet
    instance = booted_again(tmp_path, [503] * (START + 5), **trouble)
    assert not [call for call in instance.calls if call.startswith("shutdown")]
    assert not instance.called("docker run")
    assert restarts(instance) == 1, "it is given its time, then helped"
    assert status(instance)["state"] == "unhealthy"


def test_a_reboot_before_the_first_healthy_answer_sets_the_timer_again(tmp_path):
    instance = serve(tmp_path, script(), [503], NO_IMAGE="1")
    assert instance.exit_code == 69
    instance = booted_again(tmp_path, [503, 200])
    assert instance.calls[0] == "shutdown -h +15"
    assert status(instance)["state"] == "healthy"


def test_a_cpu_type_asks_for_no_gpu(tmp_path):
    instance = serve(tmp_path, script("c6i.large"), [200], NO_GPU="1")
    assert status(instance)["state"] == "healthy"
    assert "--gpus" not in instance.call("docker run")
