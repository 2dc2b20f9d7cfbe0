import subprocess
import sys
from pathlib import Path

import pytest

from scripts import runners
from scripts.machine import Docker, Stop
from tests.support.full_disk import files_of_at_most


def test_stop_ends_the_server_that_was_started_and_nothing_else(processes: runners.Processes) -> None:
    assert processes.stop() is False
    with subprocess.Popen(["sleep", "60"]) as server:
        processes._pid_file.write_text(f"{server.pid} {runners._started(server.pid)} 8080")
        assert processes.stop() is True
        assert server.wait(60) == -15
    with subprocess.Popen(["sleep", "60"]) as other:  # the pid was given to another program
        processes._pid_file.write_text(f"{other.pid} 12345 8080")
        assert processes.stop() is False
        assert other.poll() is None
        other.kill()


def test_a_server_that_ended_shows_the_end_of_its_log(processes: runners.Processes, tmp_path: Path) -> None:
    processes._python = Path(sys.executable)
    processes._server = subprocess.Popen(["sh", "-c", "exit 3"])
    processes._server.wait()
    Path(processes.log).write_text("first\nthe reason\n")
    with pytest.raises(Stop, match="the reason"):
        processes.check_alive()


def test_a_server_that_could_not_be_found_again_is_not_left_behind(processes: runners.Processes, tmp_path: Path) -> None:
    with files_of_at_most(0), pytest.raises(OSError, match="too large"):
        processes.serve(tmp_path, 8080)
    assert processes._server.wait(60) == -15
    assert processes.port() is None  # its file is empty
    assert processes.stop() is False


def test_a_server_in_a_container_says_its_port(fake_docker) -> None:
    running = fake_docker(compose='case "$4" in ps) echo 1f2e;; port) echo 127.0.0.1:9000;; esac')
    assert runners.Containers(Docker(running)).port() == 9000
    assert runners.Containers(Docker(fake_docker("ended", compose="exit 0"))).port() is None


def test_training_is_told_that_the_demo_serves_its_model(fake_docker, processes: runners.Processes, tmp_path: Path) -> None:
    """The model's folder in training's last line is not where the demo leaves it."""
    docker = fake_docker(compose="exit 0")
    runners.Containers(Docker(docker)).train(tmp_path, tmp_path, ())
    assert " -e KENNEL_SERVING_ADVICE=off " in (docker.parent / "calls").read_text()
    processes._python.write_text(f'#!/bin/sh\necho "$KENNEL_SERVING_ADVICE" >{tmp_path}/advice\n')
    processes.train(tmp_path, tmp_path, ())
    assert (tmp_path / "advice").read_text() == "off\n"


def test_stop_removes_what_a_failed_training_left_in_containers(fake_docker, tmp_path: Path) -> None:
    """Compose makes a network for it; there is no server."""
    network = tmp_path / "network"
    containers = runners.Containers(
        Docker(fake_docker(compose=f'case "$4" in run) touch {network}; exit 2;; down) rm {network};; esac'))
    )
    with pytest.raises(Stop, match="training ended with an error"):
        containers.train(tmp_path, tmp_path, ())
    assert network.exists()
    assert containers.stop() is False
    assert not network.exists()
    assert containers.stop() is False, "there is nothing left, which is no error"


def test_stop_ends_the_container_server_of_this_clone_only(
    fake_docker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine keeps a file for each project that runs."""
    project = f"{tmp_path}/$3"
    docker = Docker(
        fake_docker(
            compose=f'test "$2" = --project-name; case "$4" in up) touch {project};; down) rm {project};; '
            f"ps) ! test -e {project} || echo 1f2e;; port) echo 127.0.0.1:9000;; esac"
        )
    )
    clones = []
    for name in ("one", "two"):
        monkeypatch.setattr(runners, "ROOT", tmp_path / name)
        clones.append(runners.Containers(docker))
    clones[0].serve(tmp_path, 9000)
    assert clones[1].stop() is False
    assert clones[0].port() == 9000
    assert clones[0].stop() is True
    assert clones[0].port() is None
    assert clones[0].log == f"docker compose --project-name {runners.project_of(tmp_path / 'one')} logs serve"
