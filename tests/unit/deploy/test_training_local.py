"""What `train --local` asks of the SDK; the SDK itself is tested in tests/local_mode."""

import argparse

import pytest

from containers.train.config import TrainConfig
from deploy import training_local
from deploy.errors import Refused
from tests.support import aws as fake


def test_directories_stand_where_s3_would(tmp_path):
    for channel in ("train", "valid", "notes"):
        (tmp_path / "dogs" / channel).mkdir(parents=True)
    folder, output = tmp_path / "dogs", tmp_path / "out"
    request = training_local.local_request("kennel-train:dev", folder, output, TrainConfig(epochs=1), fake.context())
    sources = {row["ChannelName"]: row["DataSource"]["FileDataSource"]["FileUri"] for row in request["InputDataConfig"]}
    assert sources == {"train": f"file://{folder}/train", "valid": f"file://{folder}/valid"}
    assert request["HyperParameters"]["epochs"] == "1"
    assert request["OutputDataConfig"] == {"S3OutputPath": f"file://{output}"}


def test_a_folder_without_train_is_refused(tmp_path):
    arguments = argparse.Namespace(data=str(tmp_path), image=None)
    with pytest.raises(Refused, match="holds no train/"):
        training_local.run(arguments, fake.context(), TrainConfig())


def test_without_the_sdk_it_says_which_environment(tmp_path):
    try:
        import sagemaker  # noqa: F401
    except ImportError:
        (tmp_path / "train").mkdir()
        with pytest.raises(Refused, match="not installed") as caught:
            training_local.run(argparse.Namespace(data=str(tmp_path), image=None), fake.context(), TrainConfig())
        assert "local.lock" in caught.value.hint
    else:
        pytest.skip("the SageMaker SDK is installed here")
