"""Flags: every hyperparameter has one, and they build the same job as SageMaker's files."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from containers.core.errors import ConfigError
from containers.train import __main__ as door
from containers.train.config import TrainConfig
from containers.train.job import Cluster


def read(*flags: object, **environ: str) -> Any:
    return door.read_job(["--data", "photos", "--model-dir", "runs/dogs", *map(str, flags)], environ)


def test_every_hyperparameter_is_a_flag_with_its_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        door.read_job(["--help"])
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, field in TrainConfig.model_fields.items():
        assert f"--{name.replace('_', '-')}" in shown
        assert field.description
        assert " ".join(field.description.split())[:40] in shown


def test_folders_have_defaults_beside_the_model() -> None:
    job = read()
    here = Path.cwd()
    assert job.channels == {"train": here / "photos"}
    assert job.paths.model_dir == here / "runs/dogs"
    assert job.paths.output_dir == here / "runs/dogs.run/output"
    assert job.paths.checkpoint_dir == here / "runs/dogs.run/checkpoints"
    assert job.paths.tensorboard_dir == here / "runs/dogs.run/output/tensorboard"
    assert job.cluster == Cluster()


def test_nothing_is_written_beside_the_folders_that_were_named() -> None:
    """A mounted folder's neighbours are the container's own root, which user 10001 may not write."""
    paths = read("--output-dir", "/output", "--checkpoint-dir", "/checkpoints").paths
    assert paths.tensorboard_dir == Path("/output/tensorboard")
    assert paths.failure_file == Path("/output/failure")


def test_values_are_parsed_and_all_mistakes_told_together() -> None:
    job = read("--epochs", 3, "--learning-rate", "1e-2", "--deterministic", "--architecture", "resnet18")
    assert (job.config.epochs, job.config.learning_rate, job.config.deterministic) == (3, 0.01, True)
    with pytest.raises(ConfigError) as caught:
        read("--epochs", "many", "--precision", "fp8")
    assert "epochs" in str(caught.value)
    assert "precision" in str(caught.value)


@pytest.mark.parametrize(("flag", "value"), [("--patience", "-1"), ("--min-delta", "-0.1"), ("--min-delta", "nan")])
def test_nonsense_about_early_stopping_is_refused_at_the_door(flag: str, value: str) -> None:
    with pytest.raises(ConfigError, match=flag.removeprefix("--").replace("-", "_")):
        read(flag, value)


def test_pretrained_is_a_word_or_a_folder(tmp_path: Path) -> None:
    assert read("--pretrained", "none").config.pretrained == "none"
    job = read("--pretrained", tmp_path)
    assert job.channels["pretrained"] == tmp_path
    assert job.config.pretrained == "auto"
    with pytest.raises(ConfigError, match="auto, none, or the folder"):
        read("--pretrained", "imagenet")


@pytest.mark.parametrize(
    ("flags", "hosts", "current"),
    [
        (("--hosts", "b,a", "--host-index", 0), ("a", "b"), "b"),
        (("--hosts", "b, a", "--current-host", "a"), ("a", "b"), "a"),
        (("--hosts", "10.0.0.9,10.0.0.10", "--host-index", 1), ("10.0.0.10", "10.0.0.9"), "10.0.0.10"),
        (("--hosts", "a"), ("a",), "a"),
        (("--hosts", "a", "--current-host", "a", "--network-interface", "lo"), ("a",), "a"),
    ],
)
def test_hosts(flags: tuple[object, ...], hosts: tuple[str, ...], current: str) -> None:
    cluster = read(*flags).cluster
    assert (cluster.hosts, cluster.current_host) == (hosts, current)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--hosts", "a,b"), "--current-host or --host-index"),
        (("--hosts", "a,b", "--current-host", "c"), "--current-host or --host-index"),
        (("--hosts", "a", "--current-host", "b"), "--current-host or --host-index"),
        (("--hosts", "a,b,a", "--host-index", 0), "names a more than once"),
        (("--hosts", "a,b", "--host-index", 0, "--network-interface", "eth77"), "--network-interface eth77 is none of.* lo"),
        (("--hosts", "a,b", "--host-index", 2), "count from 0"),
        (("--hosts", "a,b", "--host-index", -1), "count from 0"),
        (("--processes-per-host", -1), "hosts cannot be used"),
    ],
)
def test_hosts_that_cannot_be(flags: tuple[object, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read(*flags)


def test_the_device_is_a_flag_or_the_environments() -> None:
    assert read(KENNEL_DEVICE="cpu").device == "cpu"
    assert read("--device", "cuda", KENNEL_DEVICE="cpu").device == "cuda"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--lerning-rate", 1), "--lerning-rate: no such flag; did you mean --learning-rate?"),
        (("--lerning-rate=-1",), "--lerning-rate: no such flag; did you mean --learning-rate?"),
        (("--model-dri", "runs"), "--model-dri: no such flag; did you mean --model-dir?"),
        (("--host", "a,b"), "--host: no such flag; did you mean --hosts?"),
        (("--zzzz", 1), "--zzzz: no such flag; --help lists them"),
        (("--zzzz=1", "photos"), "photos: belongs to no flag"),
        (("photos",), "photos: belongs to no flag"),
    ],
)
def test_an_unknown_flag_is_told_with_the_nearest(flags: tuple[object, ...], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(*flags)
    assert words in str(caught.value)


def test_unknown_missing_and_wrong_flags_are_told_together() -> None:
    with pytest.raises(ConfigError) as caught:
        door.read_job(["--dta", "photos", "--epochs", "many", "--pretrained", "nodir"], {})
    said = str(caught.value)
    known = "--dta: no such flag; did you mean --data?", "--data: name", "--model-dir: name", "--pretrained nodir: say"
    for words in ("5 settings", *known, "epochs: "):
        assert words in said


@pytest.mark.parametrize("place", ["--model-dir", "--output-dir", "--checkpoint-dir"])
def test_nothing_is_written_among_the_photos(tmp_path: Path, place: str) -> None:
    """It would be a class without photos, now and for every later run."""
    flags = ["--data", str(tmp_path / "photos"), "--model-dir", str(tmp_path / "model"), place, str(tmp_path / "photos/mine")]
    with pytest.raises(ConfigError, match=r"photos/mine lies in --data, where each folder is a class: choose a place outside"):
        door.read_job(flags, {})


def test_a_host_with_an_unknown_flag_can_still_tell_the_others() -> None:
    job = door.stand_in(["--hosts", "b,a", "--host-index", "0", "--lerning-rate", "1"], {})
    assert (job.cluster.hosts, job.cluster.current_host) == (("a", "b"), "b")


def test_an_unknown_flag_ends_the_program_with_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "containers.train", "--lerning-rate", "1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "did you mean --learning-rate?" in done.stderr


def test_the_command_that_serves_the_model_can_be_typed() -> None:
    job = door.read_job(["--data", "photos", "--model-dir", "/runs/my dogs"], {})
    assert door.serving_advice(job) == {"serve_it": "python -m containers.serve --model-dir '/runs/my dogs'"}


def test_it_is_not_told_where_it_cannot_run_or_another_program_serves_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    assert door.serving_advice(read()) != {}
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "flask", None)
        assert door.serving_advice(read()) == {}
    monkeypatch.setenv("KENNEL_SERVING_ADVICE", "off")
    assert door.serving_advice(read()) == {}


def test_scratch_is_of_this_process_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    scratch = read("--job-name", "../../etc").paths.scratch_dir
    assert scratch.parent == tmp_path
