"""The train image built with COMPILE=1 can do what torch.compile asks for on a GPU, and nobody else has its weight.

What needs no GPU is done here: triton's own modules are compiled and loaded, kernels become machine code for real GPUs.
"""

import json
import os
import re
from pathlib import Path

import pytest

from scripts import images, sbom
from scripts.machine import ROOT, NoDocker, Stop, find_docker
from tests.support import engine as docker_engine
from tests.support.requirement import unavailable

GB = 1e9
LABEL = "org.kennel.compile"
LOCKED_DOWN = {"user": "1000:1000", "read_only": True, "cap_drop": ["ALL"], "network_mode": "none"}
PROBE = Path(__file__).with_name("triton_probe.py")
CODE_LAYERS = 6  # weights, __init__, core, the compiled resize, train, bytecode


@pytest.fixture(scope="module")
def docker_cli():
    try:
        return find_docker()
    except NoDocker as reason:
        unavailable(str(reason))


@pytest.fixture(scope="module")
def build(engine, docker_cli, train_image):
    """build(target): a name for that target, built with COMPILE=1 (or 0) as make images does, from the same base and cache."""
    if train_image != images.TAGS["train"]:
        pytest.skip("KENNEL_TRAIN_IMAGE names a finished image: only what make images built has its layers here for a variant")
    name, digest = (
        engine.images.get(train_image).labels.get(f"org.opencontainers.image.base.{each}") for each in ("name", "digest")
    )
    if not name:
        pytest.skip(f"{train_image} was not built by make images: it does not say on what")
    base = f"{name}@{digest}" if docker_cli.has_image(f"{name}@{digest}") else name  # one that was pulled has no tag here
    made = []

    def build(target: str, compiler: str = "1") -> str:
        name = f"kennel-test-compile-{compiler}-{target}:{os.getpid()}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("COMPILE", compiler)
            arguments = images.build_arguments(docker_cli, base)
        try:
            images.build_one(docker_cli, target, name, arguments)
        except Stop as problem:
            pytest.fail(str(problem), pytrace=False)
        made.append(name)
        return name

    yield build
    for name in made:
        engine.images.remove(name, force=True)


@pytest.fixture(scope="module")
def compile_image(build) -> str:
    return build("train")


def layers(engine, name):
    return engine.images.get(name).attrs["RootFS"]["Layers"]


def answer(engine, image, command, **options):
    with docker_engine.container(engine, image, command, **LOCKED_DOWN | options) as box:
        code = docker_engine.exit_code(box, 300)
        assert code == 0, docker_engine.logs(box)
        return json.loads(box.logs(stderr=False))


@pytest.fixture(scope="module")
def probed(engine, compile_image):
    """As another user, on a root nobody can write to, without a network: what a job's first step asks of the image."""
    volumes = {str(PROBE): {"bind": "/probe.py", "mode": "ro"}}
    return answer(engine, compile_image, ["python", "/probe.py"], volumes=volumes, tmpfs={"/tmp": "exec"})


def test_triton_compiles_its_modules_and_kernels_for_real_gpus(probed):
    found = probed["triton"]
    assert found["wanted"] == [f"triton=={found['version']}"]
    assert set(found["device"].values()) == {65536}, "what the module that was compiled is told by the driver"
    assert found["launcher"] is True
    assert found["kernels"] == dict.fromkeys(("75", "86", "90"), "\x7fELF")


def test_inductor_needs_nothing_that_the_image_lacks(probed):
    """Torch's C++ headers are deleted, and there is no C++ compiler: the pass of a network asks for neither."""
    found = probed["inductor"]
    assert (found["modules"], found["cpp"], found["wanted"]) == (1, 0, [])
    assert found["triton"] >= 3


CHECK = "import json; from containers.train.machine import check_compiler as c; print(json.dumps(c(1)))"


def test_training_finds_what_it_looks_for(engine, compile_image):
    assert answer(engine, compile_image, ["python", "-c", CHECK]) is None


def test_training_names_a_folder_from_which_no_module_can_be_loaded(engine, compile_image):
    """As docker's own options for a tmpfs make it."""
    with docker_engine.container(engine, compile_image, ["python", "-c", CHECK], **LOCKED_DOWN, tmpfs={"/tmp": ""}) as box:
        assert docker_engine.exit_code(box, 120) == 1
        assert "torch_compile loads modules from /tmp, which is mounted noexec" in docker_engine.logs(box)


def test_training_names_the_build_argument_where_it_does_not(engine, train_image):
    if engine.images.get(train_image).labels.get(LABEL):
        pytest.skip("this image was built with COMPILE=1")
    with docker_engine.container(engine, train_image, ["python", "-c", CHECK], **LOCKED_DOWN) as box:
        assert docker_engine.exit_code(box, 120) == 1
        assert "torch_compile needs triton and a compiler (gcc or clang" in docker_engine.logs(box)
        assert "build the train image with COMPILE=1" in docker_engine.logs(box)


LOOK = """import importlib.util as u, json, os, shutil
programs = [name for name in ("cc", "c99", "gcc", "g++", "clang", "tcc", "zig", "zig-cc", "nvcc") if shutil.which(name)]
print(json.dumps([[n for n in ("triton", "ziglang") if u.find_spec(n)], programs, os.environ.get("CC")]))"""


@pytest.mark.parametrize("role", ["train", "serve"])
def test_the_images_of_everybody_else_have_neither(engine, request, role):
    image = request.getfixturevalue(f"{role}_image")
    if engine.images.get(image).labels.get(LABEL):
        pytest.skip("this image was built with COMPILE=1")
    assert answer(engine, image, ["python", "-c", LOOK]) == [[], [], None]


def test_the_same_look_finds_them_in_the_variant(engine, compile_image):
    assert answer(engine, compile_image, ["python", "-c", LOOK]) == [
        ["triton", "ziglang"],
        ["zig-cc"],
        "/usr/local/bin/zig-cc",
    ]
    assert engine.images.get(compile_image).labels[LABEL] == "1"


def test_the_variant_costs_a_push_what_it_adds(engine, compile_image, train_image):
    """Torch and the role's packages are the default image's own layers. Budget: the first build plus a tenth."""
    if engine.images.get(train_image).labels.get(LABEL):
        pytest.skip("kennel-train:dev was built with COMPILE=1: there is no default to compare with")
    before = layers(engine, train_image)[:-CODE_LAYERS]
    assert layers(engine, compile_image)[: len(before)] == before
    more = engine.images.get(compile_image).attrs["Size"] - engine.images.get(train_image).attrs["Size"]
    assert 0.5 < more / GB < 0.92


def test_the_serve_image_is_the_same_with_and_without(engine, build):
    assert layers(engine, build("serve")) == layers(engine, build("serve", "0"))


def test_its_bill_of_materials_names_what_is_more(engine, docker_cli, compile_image, train_image):
    parts = sbom.document(compile_image, sbom.ask(docker_cli, compile_image))["components"]
    python = {part["name"]: part for part in parts if part.get("purl", "").startswith("pkg:pypi/") and "hashes" not in part}
    lock = (ROOT / "requirements" / "compile.lock").read_text()
    locked = dict(re.findall(r"^([a-z]+)==([^ \\]+)", lock, re.M))
    assert locked.keys() == {"triton", "ziglang"}
    assert {name: python[name]["version"] for name in locked} == locked
    licences = {name: [entry["license"]["name"] for entry in python[name]["licenses"]] for name in locked}
    assert licences == {"triton": ["MIT License"], "ziglang": ["MIT"]}
