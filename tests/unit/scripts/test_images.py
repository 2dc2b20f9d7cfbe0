import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import images
from scripts.machine import ROOT, Docker, Stop


@pytest.fixture(autouse=True)
def no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BASE_IMAGE", "COMPAT_IMAGE", "PRETRAINED", "COMPILE"):
        monkeypatch.delenv(name, raising=False)


def calls(cli: Path) -> str:
    return (cli.parent / "calls").read_text()


def test_the_base_that_was_chosen_wins(fake_docker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASE_IMAGE", "mine:1")
    assert images.base_image(Docker(fake_docker())) == "mine:1"


def test_a_base_that_is_here_is_not_pulled_again(fake_docker) -> None:
    cli = fake_docker(image=f'[ "$5" = {images.OWN_BASE} ] && echo sha256:1')
    assert images.base_image(Docker(cli)) == images.OWN_BASE
    assert "pull" not in calls(cli)


def test_the_public_base_is_pulled_where_it_can_be(fake_docker) -> None:
    assert images.base_image(Docker(fake_docker(pull="exit 0"))) == images.PUBLIC_BASE


def test_a_digest_that_cannot_be_pulled_is_said_before_its_tag_is_taken(
    fake_docker, capsys: pytest.CaptureFixture[str]
) -> None:
    tag = images.PUBLIC_BASE.partition("@")[0]
    cli = fake_docker(pull=f'[ "$3" = {tag} ]', image=f'[ "$5" = {tag} ] && echo python@sha256:aa')
    assert images.base_image(Docker(cli)) == tag
    assert f"The pinned digest could not be pulled: building on what {tag} is today, sha256:aa" in capsys.readouterr().out


def test_without_a_network_an_earlier_pull_of_the_tag_will_do(fake_docker) -> None:
    tag = images.PUBLIC_BASE.partition("@")[0]
    cli = fake_docker(image=f'[ "$5" = {tag} ] && echo sha256:1')
    assert images.base_image(Docker(cli)) == tag
    assert f"pull -q {images.PUBLIC_BASE}" in calls(cli)


def test_a_build_by_hand_and_by_compose_stand_on_the_same_digest() -> None:
    assert re.fullmatch(r"[a-z]+:[a-z0-9.-]+@sha256:[0-9a-f]{64}", images.PUBLIC_BASE)
    assert f"\nARG BASE_IMAGE={images.PUBLIC_BASE}\n" in (images.ROOT / "containers" / "Dockerfile").read_text()
    assert f"BASE_IMAGE: ${{BASE_IMAGE:-{images.PUBLIC_BASE}}}\n" in (images.ROOT / "docker-compose.yml").read_text()


def test_no_base_at_all_is_said_in_one_sentence(fake_docker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_docker("nothing-else")
    monkeypatch.setenv("PATH", f"{tmp_path / 'nothing-else'}:/usr/bin:/bin")  # debootstrap is not there
    monkeypatch.setenv("MIRROR", "file:///nowhere")
    with pytest.raises(images.NoBase, match="neither be pulled nor made"):
        images.base_image(Docker(fake_docker()))


def test_the_build_gets_the_base_the_revision_and_the_ca_bundle_as_a_secret(
    fake_docker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    monkeypatch.setenv("BASE_IMAGE", "mine:1")
    cli = fake_docker(image="echo sha256:1", build='[ "$DOCKER_BUILDKIT" = 1 ]')
    images.build(Docker(cli))
    builds = [line for line in calls(cli).splitlines() if line.startswith("build ")]
    assert [line.split(" -t ")[1].split()[0] for line in builds] == ["kennel-serve:dev", "kennel-train:dev"]
    assert all(f"--secret id=ca,src={bundle}" in line for line in builds)
    assert all("--build-arg BASE_IMAGE=mine:1" in line for line in builds)
    assert all(f"VERSION={images.version()}" in line for line in builds)


def test_the_first_build_says_how_much_it_downloads(
    fake_docker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BASE_IMAGE", "mine:1")
    said = "==> Building the images: up to 3.8 GB of packages to download, 14 GB on disk\n\n==> Image kennel-serve:dev"
    images.build(Docker(fake_docker(build="exit 0")))
    assert said in capsys.readouterr().out
    images.build(Docker(fake_docker(build="exit 0", image="echo sha256:1")))
    assert "download" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["COMPAT_IMAGE", "PRETRAINED", "COMPILE"])
def test_the_build_gets_what_the_environment_chooses(fake_docker, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("BASE_IMAGE", "mine:1")
    images.build(Docker(without := fake_docker("without", image="echo sha256:1", build="exit 0")))
    assert f"{name}=" not in calls(without)
    monkeypatch.setenv(name, "1")
    images.build(Docker(cli := fake_docker(image="echo sha256:1", build="exit 0")))
    assert calls(cli).count(f"--build-arg {name}=1 ") == len(images.TAGS)


def test_a_compiler_is_so_much_more_to_download_and_to_keep(
    fake_docker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BASE_IMAGE", "mine:1")
    monkeypatch.setenv("COMPILE", "1")
    images.build(Docker(fake_docker(build="exit 0")))
    assert "up to 4.1 GB of packages to download, 16 GB on disk\n" in capsys.readouterr().out
    monkeypatch.setattr(images, "COMPILE_BYTES", 10**18)
    with pytest.raises(Stop, match="building the images needs 1000000018 GB"):
        images.build(Docker(fake_docker(build="exit 0", info="echo /")))


def test_a_compile_that_is_no_stage_is_refused_before_the_build(fake_docker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPILE", "yes")
    with pytest.raises(Stop, match="COMPILE=yes is neither 0 nor 1"):
        images.build(Docker(cli := fake_docker(image="echo sha256:1", build="exit 0")))
    assert "build" not in calls(cli)


@pytest.mark.parametrize(
    ("inspected", "digest"), [("python@sha256:aa python@sha256:bb sha256:cc", "sha256:aa"), ("sha256:cc", "sha256:cc")]
)
def test_the_base_is_recorded_by_its_digest(fake_docker, inspected: str, digest: str) -> None:
    assert images.digest(Docker(fake_docker(image=f"echo {inspected}")), "python:3.11") == digest


def test_the_build_stands_on_a_digest_where_the_registry_gave_one(fake_docker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASE_IMAGE", "python:3.11")
    cli = fake_docker(image="echo python@sha256:aa", build="exit 0")
    images.build(Docker(cli))
    builds = [line for line in calls(cli).splitlines() if line.startswith("build ")]
    assert all("--build-arg BASE_IMAGE=python@sha256:aa" in line for line in builds)
    assert all("base.name=python:3.11" in line and "base.digest=sha256:aa" in line for line in builds)


def test_a_base_that_was_made_here_is_its_tag(fake_docker) -> None:
    assert images.pinned(Docker(fake_docker(image="echo")), "kennel-base:bookworm") == "kennel-base:bookworm"


def test_a_build_that_fails_stops(fake_docker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASE_IMAGE", "mine:1")
    with pytest.raises(Stop, match="kennel-serve:dev could not be built"):
        images.build(Docker(fake_docker(image="echo sha256:1")))


@pytest.mark.parametrize("program", ["containers.train.convert_efficientnet_lite0", "containers.core.build_native"])
def test_a_stage_that_copies_single_files_copies_all_that_its_program_imports(tmp_path: Path, program: str) -> None:
    """So that other code does not make it anew. One more import would fail in the build only."""
    lines = (ROOT / "containers/Dockerfile").read_text().replace("\\\n", " ")
    (stage,) = [stage for stage in re.split("^FROM ", lines, flags=re.MULTILINE) if f" -m {program}" in stage]
    for copied in re.findall("^COPY (containers/.*)", stage, flags=re.MULTILINE):
        *files, folder = copied.split()
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name in files:
            shutil.copy(ROOT / name, tmp_path / folder)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", f"import {program}"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
