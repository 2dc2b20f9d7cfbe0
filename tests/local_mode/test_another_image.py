"""The fixtures with an image that is not ours: another trainer, another model, another answer."""

import json
import shutil


def test_train_deploy_and_invoke(sdk, classic, few, root, tmp_path):
    archive = sdk.train(classic, {"train": few["train"]}, {"epochs": 2}, root)
    (tmp_path / "model").mkdir()
    model = shutil.copy(archive, tmp_path / "model" / "model.tar.gz")
    classes = {path.name for path in few["train"].iterdir()}
    photo = next(few["test"].rglob("*.jpg")).read_bytes()
    with sdk.clients(root) as (sagemaker, runtime), sdk.endpoint(sagemaker, classic, model) as name:
        answer = runtime.invoke_endpoint(EndpointName=name, Body=photo, ContentType="image/jpeg")
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
        assert json.loads(answer["Body"].read()) in classes
