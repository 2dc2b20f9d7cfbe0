"""The SDK's ModelTrainer in LOCAL_CONTAINER mode trains with our image as SageMaker would, on one and two instances."""

import concurrent.futures
import json
import tarfile

import pytest

from tests.support import engine as docker_engine

QUICK = {"architecture": "efficientnet_lite0", "head_epochs": 4, "epochs": 0, "engines": "none"}


def manifest_of(archive):
    with tarfile.open(archive) as tar:
        return json.load(tar.extractfile("manifest.json"))


def test_one_instance_trains_and_hyperparameters_of_every_type_arrive(sdk, train_image, few, photos, root):
    typed = {
        "head_epochs": 1,
        "learning_rate": 0.002,
        "deterministic": True,
        "optimizer": "sgd",
        "augmentation": '"none"',  # encoded twice, as older SDKs send it
        "batch_size": "16",
        "weight_decay": "1e-4",
    }
    archive = sdk.train(train_image, few, QUICK | typed, root)
    manifest = manifest_of(archive)
    with tarfile.open(archive) as tar:  # the container is root, and whoever runs the SDK need not be
        assert all(member.mode & 0o044 == 0o044 for member in tar if member.isfile())
    assert manifest["class_names"] == sorted(path.name for path in (photos / "train").iterdir())
    arrived = {name: manifest["provenance"]["config"][name] for name in typed}
    assert arrived == typed | {"augmentation": "none", "batch_size": 16, "weight_decay": 1e-4}


def test_two_instances_train_one_good_model(sdk, train_image, channels, root):
    archive = sdk.train(train_image, channels, QUICK, root, hosts=2)
    assert manifest_of(archive)["metrics"]["test_accuracy"] > 0.8
    with tarfile.open(archive) as tar:
        assert tar.getnames().count("manifest.json") == 1


def test_the_reason_of_a_failed_job_reaches_its_caller(sdk, train_image, few, root):
    with pytest.raises(RuntimeError) as caught:
        sdk.train(train_image, few, QUICK | {"epohcs": 3, "learning_rate": "fast"}, root)
    message = str(caught.value)
    assert "exited with code: 2" in message
    assert "epohcs: no such setting; did you mean epochs?" in message
    assert "learning_rate" in message


def test_the_reason_of_two_hosts_that_fail_alike_reaches_their_caller(sdk, train_image, few, root, tmp_path):
    (tmp_path / "train" / "only-class").mkdir(parents=True)
    with pytest.raises(RuntimeError, match="exited with code: 2") as caught:
        sdk.train(train_image, few | {"train": tmp_path / "train"}, QUICK, root, hosts=2)
    assert "class" in str(caught.value)


_KILL_RANKS = r"""
import contextlib, os, pathlib, signal
for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    with contextlib.suppress(OSError):
        if b"-m\0containers.train.worker\0" in path.read_bytes():
            os.kill(int(path.parent.name), signal.SIGKILL)
"""


def test_what_only_the_second_host_dies_of_reaches_the_caller(sdk, engine, train_image, few, root):
    """Its rank is killed, as the kernel does where memory runs out."""
    small = {"architecture": "squeezenet1_1", "pretrained": "none", "image_size": 64, "batch_size": 6, "num_workers": 0}
    endless = QUICK | small | {"head_epochs": 0, "epochs": 100_000, "patience": 0, "learning_rate": 1e-4}
    training = lambda: any('"event": "epoch"' in docker_engine.logs(box) for box in sdk.containers(engine, root))  # noqa: E731
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        job = pool.submit(sdk.train, train_image, few, endless, root, hosts=2)
        try:
            docker_engine.wait_until(lambda: job.done() or training(), 300, "an epoch")
            (second,) = [box for box in sdk.containers(engine, root) if box.name.endswith("algo-2-1")]
            assert second.exec_run(["python3", "-S", "-c", _KILL_RANKS]).exit_code == 0
            with pytest.raises(RuntimeError, match="exited with code: 1") as caught:
                job.result(240)
        finally:
            sdk.remove_containers(root)  # so that the job ends, whatever went wrong here
    assert ": WorkerFailed: " in str(caught.value)
    assert "host algo-2]" in str(caught.value)
