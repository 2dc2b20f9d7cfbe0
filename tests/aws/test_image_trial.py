"""`images` runs what it is about to push, with a real engine: the real images pass, each way not to start is refused."""

import json

import pytest

from deploy import __main__ as deploy
from deploy import image_trial
from deploy.errors import Refused
from tests.support import aws as fake
from tests.support import engine as docker_engine
from tests.support.registry import registry

pytestmark = [pytest.mark.docker, pytest.mark.slow]

BROKEN = {  # what a Dockerfile adds to the train image → what the refusal says
    "a module is missing": ("RUN rm -r containers/core/settings.py containers/core/__pycache__", "No module named"),
    "no such program": ("RUN rm containers/train/bin/train", "cannot be started"),
    "another end": ('RUN printf "#!/bin/sh\\necho hello\\n" >containers/train/bin/train', "ended with 0, not with 2"),
    "torch is broken": ("RUN rm /opt/venv/lib/python3.11/site-packages/torch/version.py", "ended with 1"),
    "another label": ('LABEL org.kennel.cuda="11.8"', "its label says CUDA 11.8, its torch was built for 12.8"),
}


@pytest.fixture
def context():
    from deploy.context import Clock

    made = fake.context()
    made.clock = Clock()
    return made


def left_of(engine, name: str) -> list:
    """Containers of this image, ended ones too."""
    return engine.containers.list(all=True, filters={"ancestor": name})


@pytest.fixture
def broken(engine, train_image, tmp_path):
    """The train image with one more line; the name of what comes out."""
    made = []

    def build(line: str) -> str:
        (tmp_path / "Dockerfile").write_text(f"ARG BASE\nFROM ${{BASE}}\n{line}\n")
        made.append(docker_engine.built(engine, tmp_path, train_image))
        return made[-1].__enter__()

    yield build
    for image in made:
        image.__exit__(None, None, None)


@pytest.mark.parametrize("image", ["train", "serve"])
def test_the_real_images_start(engine, context, image, request):
    image_trial.check(context, engine, image, request.getfixturevalue(f"{image}_image"))


@pytest.mark.parametrize(("line", "says"), BROKEN.values(), ids=BROKEN)
def test_what_does_not_start_is_refused_with_its_last_lines(engine, context, broken, line, says):
    name = broken(line)
    with pytest.raises(Refused) as caught:
        image_trial.check(context, engine, "train", name)
    assert says in str(caught.value)
    assert caught.value.hint
    assert left_of(engine, name) == []


def test_what_never_ends_is_ended(engine, context, broken):
    name = broken('RUN printf "#!/bin/sh\\necho waiting\\nexec sleep 600\\n" >containers/train/bin/train')
    with pytest.raises(Refused, match="still runs after 10 s") as caught:
        image_trial.check(context, engine, "train", name, limit=10)
    assert "| waiting" in str(caught.value)
    assert left_of(engine, name) == []


def test_the_server_is_no_trainer(engine, context, serve_image):
    with pytest.raises(Refused, match="cannot be started"):
        image_trial.check(context, engine, "train", serve_image)


def test_another_architecture_is_refused_before_it_is_run(engine, context, tmp_path, monkeypatch):
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    monkeypatch.setenv("DOCKER_DEFAULT_PLATFORM", "linux/arm64")
    with docker_engine.built(engine, tmp_path, "") as name, pytest.raises(Refused, match="is made for arm64"):
        image_trial.check(context, engine, "train", name)


def test_what_does_not_start_is_not_pushed(engine, broken, tmp_path, capfd):
    with registry(tmp_path) as host:
        target = f"{host}/kennel/dev/train"
        engine.images.get(broken("RUN rm containers/train/bin/train && true")).tag(target, "v1")
        try:
            command = ["images", "train", "--no-build", "--tag", "v1", "--registry", host, "--json"]
            assert deploy.main(command) == 2
            refused = json.loads(capfd.readouterr().out)
            assert (refused["error"], refused["where"]) == ("Refused", "image train")
            from deploy.images import remote_digest

            assert remote_digest(engine, f"{target}:v1", None) is None
        finally:
            engine.images.remove(f"{target}:v1", force=True)


def test_an_image_that_is_not_here_is_said(engine, context):
    with pytest.raises(Refused, match="is not on this machine") as caught:
        image_trial.check(context, engine, "train", "kennel-test/absent:v1")
    assert "--no-build" in caught.value.hint
