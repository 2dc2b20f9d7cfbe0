"""What the two images say about themselves, and what they must not."""

import re

import pytest

pytestmark = pytest.mark.docker
ROLES = ("train", "serve")


@pytest.fixture
def image(request: pytest.FixtureRequest, engine):
    return engine.images.get(request.getfixturevalue(f"{request.param}_image"))


@pytest.mark.parametrize(("image", "role"), [(role, role) for role in ROLES], indirect=["image"])
def test_it_starts_as_sagemaker_starts_it(image, role: str) -> None:
    config = image.attrs["Config"]
    assert config["Cmd"] == [role]
    assert not config["Entrypoint"]
    assert config["User"] in ("", "root"), "SageMaker runs containers as root"
    assert config["StopSignal"] == "SIGTERM"
    assert config["WorkingDir"] == "/opt/kennel"


@pytest.mark.parametrize(("image", "role"), [(role, role) for role in ROLES], indirect=["image"])
def test_labels(image, role: str) -> None:
    labels = image.labels
    assert labels["org.opencontainers.image.title"] == f"kennel-{role}"
    assert labels["org.kennel.cuda"] == "12.8"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert re.fullmatch(r"\d+\.\d+\.\d+", labels["org.opencontainers.image.version"])
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", labels["org.opencontainers.image.base.digest"])
    assert {
        "org.opencontainers.image.revision",
        "org.opencontainers.image.base.name",
        "org.opencontainers.image.description",
    } <= labels.keys()
    offers = {name.rpartition(".")[2] for name, value in labels.items() if "sagemaker.capabilities" in name and value == "true"}
    assert offers == ({"accept-bind-to-port", "multi-models"} if role == "serve" else set())


@pytest.mark.parametrize("image", ROLES, indirect=True)
def test_environment(image) -> None:
    environment = dict(entry.split("=", 1) for entry in image.attrs["Config"]["Env"])
    assert environment["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert "NVIDIA_REQUIRE_CUDA" not in environment, "it makes a container fail to start without a word in the log"
    assert not [name for name in environment if name.startswith(("UV_", "PIP_", "SSL_"))], "the build's own settings"


@pytest.mark.parametrize("image", ROLES, indirect=True)
def test_the_cuda_label_is_what_torch_was_built_with(image, engine) -> None:
    command = ["python", "-c", "import torch; print(torch.version.cuda)"]
    printed = engine.containers.run(image.id, command, remove=True, network_disabled=True)
    assert printed.decode().strip() == image.labels["org.kennel.cuda"]


@pytest.mark.parametrize("image", ROLES, indirect=True)
def test_photos_take_the_quick_way(image, engine) -> None:
    """The compiled resize is there, can be loaded, and gives Pillow's bytes: `load` is None where it does not."""
    command = ["python", "-c", "from containers.core import fast_jpeg; print(fast_jpeg.load() is not None)"]
    assert engine.containers.run(image.id, command, remove=True, network_disabled=True).decode().strip() == "True"


@pytest.mark.parametrize("image", ROLES, indirect=True)
def test_the_builds_secret_left_no_trace(image, engine) -> None:
    history = " ".join(layer["CreatedBy"] for layer in image.history())
    assert "BEGIN CERTIFICATE" not in history
    places = ["/run", "/opt/uv", "/var/cache/uv", "/tmp"]  # the build's mount points; they stay, empty
    looking = ["find", *places, "-type", "f", "-size", "+0"]
    assert engine.containers.run(image.id, looking, remove=True, network_disabled=True) == b""


def test_both_stand_on_the_same_torch_layer(engine, train_image: str, serve_image: str) -> None:
    layers = [engine.images.get(name).attrs["RootFS"]["Layers"] for name in (train_image, serve_image)]
    shared = [one for one, other in zip(*layers, strict=False) if one == other]
    assert len(shared) >= 2, "the base and torch: a second push sends only what is the role's own"


def test_the_health_check_needs_no_tool_in_the_image(engine, serve_image: str) -> None:
    health = engine.images.get(serve_image).attrs["Config"]["Healthcheck"]
    assert health["Test"][:2] == ["CMD", "python3"]
