"""LocalSession: the boto3 calls of a real deployment, create_training_job to delete_endpoint, on local containers."""

import json
import shutil
import socket
import tarfile

import pytest

QUICK = {"architecture": "efficientnet_lite0", "head_epochs": "4", "epochs": "0", "engines": "none"}


@pytest.fixture(scope="module")
def archive(sdk, train_image, channels, tmp_path_factory):
    """model.tar.gz of a job that create_training_job ran, in a directory of its own."""
    root = tmp_path_factory.mktemp("session")
    with sdk.clients(root) as (sagemaker, _):
        sagemaker.create_training_job(**sdk.training_request("train-1", train_image, channels, QUICK, root / "out"))
        described = sagemaker.describe_training_job(TrainingJobName="train-1")
    assert described["TrainingJobStatus"] == "Completed"
    made = tmp_path_factory.mktemp("model") / "model.tar.gz"
    shutil.copy(described["ModelArtifacts"]["S3ModelArtifacts"].removeprefix("file://"), made)
    return made


@pytest.fixture
def model(archive, tmp_path):
    """The SDK unpacks an archive where it lies, so every test has its own copy."""
    (tmp_path / "model").mkdir()
    return shutil.copy(archive, tmp_path / "model" / "model.tar.gz")


def answer(response):
    return response["ResponseMetadata"]["HTTPStatusCode"], json.loads(response["Body"].read())


def test_train_deploy_invoke_delete(sdk, serve_image, photos, model, root):
    with sdk.clients(root) as (sagemaker, runtime):
        port = sagemaker.sagemaker_session.config["local"]["serving_port"]
        with sdk.endpoint(sagemaker, serve_image, model) as name:
            assert sagemaker.describe_endpoint(EndpointName=name)["EndpointStatus"] == "InService"
            for folder in sorted((photos / "test").iterdir()):
                photo = sorted(folder.iterdir())[0].read_bytes()
                status, body = answer(runtime.invoke_endpoint(EndpointName=name, Body=photo, ContentType="image/jpeg"))
                assert (status, body["predictions"][0]["class"]) == (200, folder.name)
            status, body = answer(runtime.invoke_endpoint(EndpointName=name, Body=b"no photo", ContentType="image/jpeg"))
            assert status == 400
            assert "Traceback" not in json.dumps(body)
        with pytest.raises(ConnectionRefusedError):  # nobody is left on the port
            socket.create_connection(("127.0.0.1", port), timeout=5)


def test_the_archive_of_a_failed_job_holds_the_reason(sdk, train_image, channels, root):
    with sdk.clients(root) as (sagemaker, _):
        request = sdk.training_request("fails", train_image, channels, QUICK | {"epohcs": "1"}, root / "out")
        with pytest.raises(RuntimeError):
            sagemaker.create_training_job(**request)
    with tarfile.open(root / "out" / "output.tar.gz") as tar:
        (reason,) = [tar.extractfile(member).read().decode() for member in tar if member.name.endswith("failure")]
    assert "did you mean epochs?" in reason


def test_batch_transform_answers_every_photo_of_a_folder(sdk, serve_image, photos, model, root, tmp_path):
    folder = tmp_path / "photos"  # flat: the SDK, unlike SageMaker, does not look into subfolders
    folder.mkdir()
    for path in (photos / "test").rglob("*.jpg"):
        shutil.copy(path, folder / f"{path.parent.name}@{path.name}")
    with sdk.clients(root) as (sagemaker, _):
        sdk.create_model(sagemaker, "batch", serve_image, model)
        sdk.transform(sagemaker, "batch", folder, tmp_path / "out", content_type="image/jpeg")
    names = sorted(path.name for path in folder.iterdir())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{name}.out" for name in names]
    answers = {name: json.loads((tmp_path / "out" / f"{name}.out").read_text()) for name in names}
    right = [answers[name]["predictions"][0]["class"] == name.partition("@")[0] for name in names]
    assert sum(right) / len(right) > 0.8
