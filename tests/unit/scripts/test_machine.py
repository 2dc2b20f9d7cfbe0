import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.machine import ROOT, NoDocker, Stop, check_disk, check_port, find_docker, output, refused, run
from tests.support.full_disk import files_of_at_most

GOOD = {"version": "echo 20.10.24/20.10.24", "compose": "exit 0"}


def test_a_docker_with_everything_is_found(fake_docker) -> None:
    cli = fake_docker(**GOOD)
    assert find_docker(str(cli.parent)).cli == cli


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({"version": "exit 1", "compose": "exit 0"}, "no Docker engine answers"),
        ({"version": "echo 'permission denied while trying to connect' >&2; exit 1"}, "may not use .* group docker"),
        ({"version": "echo 28.2.2/20.10.24", "compose": "exit 0"}, "docker-buildx-plugin"),
        ({"version": "echo 20.10.24/20.10.24"}, "docker-compose-plugin"),
    ],
)
def test_what_is_missing_is_named_with_its_package(fake_docker, answers: dict[str, str], reason: str) -> None:
    with pytest.raises(NoDocker, match=reason):
        find_docker(str(fake_docker(**answers).parent))


def test_an_older_docker_behind_one_that_cannot_build_is_used(fake_docker) -> None:
    newer = fake_docker("first", version="echo 28.2.2/20.10.24", compose="exit 0")
    older = fake_docker("second", **GOOD)
    assert find_docker(os.pathsep.join([str(newer.parent), str(older.parent)])).cli == older


def test_no_docker_command(tmp_path: Path) -> None:
    with pytest.raises(NoDocker, match="no docker command"):
        find_docker(str(tmp_path))


def test_a_taken_port_is_one_line_with_the_way_out() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(Stop, match=rf"port {port} is taken .*PORT={port + 1}"):
            check_port(port)
    check_port(port)


@pytest.mark.parametrize("port", [0, -1, 65536, 99999])
def test_a_number_that_is_no_port_is_one_line(port: int) -> None:
    with pytest.raises(Stop, match=f"there is no port {port}: choose one from 1 to 65535"):
        check_port(port)


@pytest.mark.skipif(
    int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 80, reason="here anybody may listen on port 80"
)
def test_a_port_that_is_not_for_this_user_is_not_called_taken() -> None:
    script = """import os
from scripts.machine import Stop, check_port
if os.geteuid() == 0:
    os.setuid(65534)
try:
    check_port(80)
except Stop as stop:
    print(stop)"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("port 80 is not for this user (Permission denied): choose one from 1024 on")


def test_a_full_disk_is_said_before_anything_is_written(tmp_path: Path) -> None:
    check_disk(tmp_path / "not" / "there" / "yet", 1, "a byte")
    with pytest.raises(Stop, match=r"installing needs 1000000000 GB .* free some"):
        check_disk(tmp_path / "not" / "there", 10**18, "installing")


def test_a_command_that_fails_or_is_missing_says_so() -> None:
    with pytest.raises(Stop, match=r"it broke \(exit code 3"):
        run(["sh", "-c", "exit 3"], "it broke")
    with pytest.raises(Stop, match="no-such-program is not installed"):
        run(["no-such-program"], "it broke")


def test_output_is_none_where_the_command_fails_or_hangs() -> None:
    assert output(["sh", "-c", "echo ' a b '"]) == "a b"
    assert output(["sh", "-c", "exit 1"]) is None
    assert output(["sleep", "60"], timeout=0.1) is None
    assert output(["no-such-program"]) is None


def test_a_full_disk_is_one_line_that_says_to_make_room(tmp_path: Path) -> None:
    with files_of_at_most(1), pytest.raises(OSError, match="too large") as caught:
        (tmp_path / "file").write_bytes(b"two")
    said = refused(caught.value, tmp_path)
    assert said == f"{tmp_path} cannot be written (File too large): make room on its disk and try again"
