"""`--dry-run` of every command: it says what it would do, and nothing is written. With --json, one document says it."""

import pytest

from deploy import __main__ as program
from tests.support.applied import endpoint
from tests.support.aws import FakeClock, Recorder, Screen, SharedSession, client, everything
from tests.support.command_line import MACHINE_IMAGE
from tests.support.fleet import BUCKET, machines
from tests.support.life import log_line
from tests.support.released import push, upload, will_answer

IMAGE = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/kennel/dev"


def dry(command, *words):
    """The command's JSON. Also for people: it says something there, and writes nothing in either."""
    for clean in ((), ("--json",)):
        recorder, before = Recorder(), everything()
        if clean:
            code, document, err = command(*words, "--dry-run", recorder=recorder)
            assert code == 0, err
        else:
            SharedSession.recorder, screen = recorder, Screen()
            where = ("--environments", str(command.stage.parent))
            seams = {"session": SharedSession(), "clock": FakeClock(), "out": screen, "console": Screen()}
            assert program.main([*words, "--dry-run", *where], **seams) == 0
            assert screen.text.strip(), "people are told nothing"
        assert recorder.writes == []
        assert everything() == before
    return document


def changes(document) -> set[tuple[str, str]]:
    """(action, kind of resource) of a plan."""
    return {(step["action"], step["resource"].partition("/")[0]) for step in document["steps"] if step["action"] != "keep"}


def test_apply_from_nothing(deploy):
    planned = changes(dry(deploy, "apply"))
    assert {("create", "bucket"), ("create", "role"), ("create", "function"), ("create", "repository")} <= planned
    assert not any(everything().values())


def test_apply_of_another_setting(released):
    released.stage.write_text(released.stage.read_text() + "memory_mb = 1024\n")
    assert ("update", "function") in changes(dry(released, "apply"))


def test_release(released):
    image, artifact = push(content="next"), upload("b")
    document = dry(released, "release", "--image", image, "--model-data", artifact)
    assert document["release"] == {"image": image, "model_data": artifact, "cuda": "12.8"}
    assert changes(document) == {("create", "model"), ("create", "endpoint-config"), ("update", "endpoint")}
    assert endpoint()["EndpointConfigName"] == released.first


def test_release_of_one_model_among_many(deploy):
    deploy.stage.write_text(deploy.stage.read_text() + '[endpoint]\nkind = "multi-model"\ninstance_type = "ml.m5.xlarge"\n')
    assert deploy("apply")[0] == 0
    words = ("--image", push(), "--model-data", upload(), "--as", "dogs")
    assert ("create", "endpoint") in changes(dry(deploy, "release", *words))


def test_rollback(released):
    will_answer()
    code, second, err = released("release", "--image", push(content="second"))
    assert code == 0, err
    assert dry(released, "rollback") == {"endpoint": "kennel-dev", "config": released.first, "dry_run": True}
    assert endpoint()["EndpointConfigName"] == second["config"]
    assert released("rollback")[1]["config"] == released.first, "a dry one leaves no mark behind"


@pytest.mark.parametrize(
    ("words", "targets"),
    [
        ((), [("train", f"{IMAGE}/train:v1"), ("serve", f"{IMAGE}/serve:v1")]),
        (("serve", "--registry", "localhost:5000"), [("serve", "localhost:5000/kennel/dev/serve:v1")]),
    ],
    ids=["ECR", "another registry"],
)
def test_images_needs_no_engine_for_it(deploy, monkeypatch, words, targets):
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    planned = dry(deploy, "images", *words, "--tag", "v1")
    assert [(row["image"], row["target"]) for row in planned] == targets


def test_loadtest(deploy, tmp_path):
    (tmp_path / "dog.jpg").write_bytes(b"photo")
    photo = ("--photo", str(tmp_path / "dog.jpg"))
    assert dry(deploy, "loadtest", *photo) == {"would_load": "kennel-dev"}
    assert dry(deploy, "loadtest", *photo, "--url", "http://127.0.0.1:1/invocations") == {
        "would_load": "http://127.0.0.1:1/invocations"
    }


EVERY = [  # of a stage with two releases; @ is a folder of photos, @@ one of them, @@@ an artifact
    "plan", "apply", "status", "costs", "policies", "policies deployer-images", "export-cfn", "smoke", "rollback",
    "images --tag v1", "simulate --capacity-rps 20", "logs endpoint", "loadtest --photo @@", "data @ --name dogs",
    "transform @", "train --data dogs", "train --data dogs --on ec2", "train --data @ --on local",
    "tune --data dogs --range weight_decay=0:0.1", "release", "release --on ec2 --model-data @@@", "destroy",
    "destroy --delete-data",
]  # fmt: skip


def test_every_command(released, tmp_path, monkeypatch):
    """Not even a request that costs: a photo for the endpoint. One stage for all: what one writes, the next would show."""
    assert {words.split()[0] for words in EVERY} == set(program.COMMANDS)
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    released.stage.write_text(f'{released.stage.read_text()}[ec2]\nami_parameter = "{MACHINE_IMAGE}"\n')
    ami = client("ec2").describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    client("ssm").put_parameter(Name=MACHINE_IMAGE, Value=ami, Type="String")
    will_answer()
    assert released("release", "--image", push(content="second"))[0] == 0
    push("train")
    for name in ("pug", "poodle"):
        folder = tmp_path / "photos" / "train" / name
        folder.mkdir(parents=True)
        (folder / "a.jpg").write_bytes(b"photo")
    client("s3").put_object(Bucket=BUCKET, Key="data/dogs/train/pug/b.jpg", Body=b"x")
    log_line("/aws/sagemaker/Endpoints/kennel-dev")
    places = {"@": str(tmp_path / "photos"), "@@": str(folder / "a.jpg"), "@@@": upload("b")}
    before = client("s3").list_object_versions(Bucket=BUCKET)["Versions"]
    for words in EVERY:
        assert dry(released, *(places.get(word, word) for word in words.split())), words
        assert client("s3").list_object_versions(Bucket=BUCKET)["Versions"] == before, words
        assert machines() == [], words
