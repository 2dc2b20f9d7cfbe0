"""What is in the two images, what is not, and how they start. Budgets: facts of the first build plus a tenth."""

import base64
import hashlib
import json
import re
from importlib import metadata
from pathlib import Path

import docker
import pytest

from scripts import images, sbom
from scripts.machine import NoDocker, find_docker
from tests.support import engine as docker_engine
from tests.support import layer_secrets
from tests.support.requirement import unavailable

ROOT = Path(__file__).parents[2]
GB = 1e9
ROLES = {"train": ("train", "serve"), "serve": ("serve", "train")}


@pytest.fixture(params=ROLES)
def role(request):
    return request.param


@pytest.fixture
def image(request, role):
    return request.getfixturevalue(f"{role}_image")


def inside(engine, image, script):
    """What a Python program prints in the image, without network and with a root nobody can write to."""
    with docker_engine.container(engine, image, ["python3", "-c", script], network_mode="none", read_only=True) as box:
        code = docker_engine.exit_code(box, 120)
        assert code == 0, docker_engine.logs(box)
        return json.loads(docker_engine.logs(box))


def test_it_holds_core_its_own_role_and_no_other_code_of_ours(engine, image, role):
    script = """import json, pathlib
print(json.dumps(sorted(str(p.relative_to("/opt/kennel")) for p in pathlib.Path("/opt/kennel").rglob("*.py"))))"""
    files = inside(engine, image, script)
    own, _ = ROLES[role]
    strangers = [
        f for f in files if not f.startswith(("containers/core/", f"containers/{own}/")) and f != "containers/__init__.py"
    ]
    assert strangers == []
    assert f"containers/{own}/__init__.py" in files


def _versions(*names):
    """(package, version) of every line of these locks; some packages have one version for each Python."""
    text = "\n".join((ROOT / "requirements" / f"{name}.lock").read_text() for name in names)
    pairs = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", text, re.M)
    return {(re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in pairs}


@pytest.fixture
def locks(engine, image, role):
    """The locks it was built from; make images COMPILE=1 adds one."""
    return ("core", role, *(["compile"] if engine.images.get(image).labels.get("org.kennel.compile") else []))


def test_its_packages_are_the_locks_and_nothing_else(engine, image, role, locks):
    script = """import json, sysconfig, importlib.metadata as m
print(json.dumps(sorted({d.metadata["Name"] for d in m.distributions(path=[sysconfig.get_paths()["purelib"]])})))"""
    installed = {re.sub(r"[-_.]+", "-", name).lower() for name in inside(engine, image, script)}
    assert installed <= {name for name, _ in _versions(*locks)}
    assert {"torch", "torchvision", "safetensors"} <= installed
    assert installed.isdisjoint({"pip", "pytest", "boto3", "docker", "sagemaker", "moto", "uv"})
    serving = {"flask", "gunicorn", "prometheus-client"}
    training = {"matplotlib", "tensorboard", "nncf", "tqdm", "psutil"}
    assert installed.isdisjoint(serving if role == "train" else training)


def test_its_bill_of_materials_names_every_package_its_version_and_its_licence(engine, image, role, locks):
    try:
        contents = sbom.ask(find_docker(), image)
    except NoDocker as reason:
        unavailable(str(reason))
    components = sbom.document(image, contents)["components"]
    python = {
        part["purl"]: part for part in components if part.get("purl", "").startswith("pkg:pypi/") and "hashes" not in part
    }
    installed = {(re.sub(r"[-_.]+", "-", part["name"]).lower(), part["version"]) for part in python.values()}
    assert installed <= _versions(*locks)
    assert [purl for purl, part in python.items() if not part.get("licenses")] == []
    debian = [part for part in components if part.get("purl", "").startswith("pkg:deb/")]
    assert len(debian) > 50
    assert len([part for part in debian if part.get("licenses")]) > 0.6 * len(debian)  # the others are not written for programs
    files = {part["name"].rpartition("/")[2]: part["licenses"] for part in components if "hashes" in part}
    weights = {"efficientnet_lite0.safetensors"} if role == "train" else set()
    assert files.keys() == {"_resample.so"} | weights
    assert all(stated == [{"license": {"name": "Apache-2.0"}}] for stated in files.values())


def test_every_debian_package_has_its_copyright_file(engine, image):
    script = """import json, pathlib, subprocess
names = subprocess.run(["dpkg-query", "-W", "-f", "${Package} "], capture_output=True, text=True).stdout.split()
print(json.dumps([n for n in names if not pathlib.Path("/usr/share/doc", n, "copyright").is_file()]))"""
    assert inside(engine, image, script) == []


def test_the_cuda_inside_is_what_the_label_says(engine, image):
    script = "import json, torch; print(json.dumps([torch.version.cuda, torch.__version__, torch.cuda.get_arch_list()]))"
    cuda, version, _ = inside(engine, image, script)
    assert cuda == engine.images.get(image).labels["org.kennel.cuda"]
    assert version.startswith("2.10.0")


@pytest.mark.parametrize(("role", "budget"), [("serve", 6.95), ("train", 7.4)])
def test_it_stays_within_its_size(engine, image, role, budget, locks):
    compiler = 0.92 if "compile" in locks else 0  # test_compile.py
    assert engine.images.get(image).attrs["Size"] / GB < budget + compiler


def test_the_two_share_the_torch_layer(engine, train_image, serve_image):
    layers = [engine.images.get(name).attrs["RootFS"]["Layers"] for name in (train_image, serve_image)]
    shared = [a for a, b in zip(*layers, strict=False) if a == b]
    sizes = [entry["Size"] for entry in engine.images.get(serve_image).history()]
    assert len(shared) >= 2
    assert max(sizes) / GB > 3  # the layer that is worth sharing


EXAMPLES_IN_PACKAGES = ("site-packages/", "dist-packages/", "/usr/share/doc/", "/usr/lib/python3")


def _layers(engine, image):
    """The folders of its layers, the newest first; what a later layer deletes or covers is in them too."""
    data = engine.images.get(image).attrs["GraphDriver"]["Data"] or {}
    layers = [Path(path) for key in ("UpperDir", "LowerDir") for path in (data.get(key) or "").split(":") if path]
    if not layers or not all(layer.is_dir() for layer in layers):
        unavailable("the engine's layers are not readable from here: this test needs root on the engine's machine")
    return layers


def _files(layers):
    """(name in the image, path here) of every file that is not large."""
    for layer in layers:
        for path in layer.rglob("*"):
            if not path.is_symlink() and path.is_file() and path.stat().st_size <= 1_000_000:
                yield f"/{path.relative_to(layer)}", path


def test_no_secret_is_in_any_layer(engine, image):
    found = []
    for name, path in _files(_layers(engine, image)):
        if not any(part in name for part in EXAMPLES_IN_PACKAGES):
            found += [f"{name} holds {what}" for what in layer_secrets.found(path.read_bytes())]
    assert found == []


def _certificates(path):
    blocks = re.findall(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", path.read_bytes(), re.S)
    return {b"".join(block.split()) for block in blocks}


def _of_packages():
    """The lists that installed packages bring (certifi's, gRPC's …), byte for byte as the index has them: not one that somebody
    added certificates of their own to.
    """
    for file in (file for package in metadata.distributions() for file in package.files or () if file.suffix == ".pem"):
        path = Path(file.locate())
        digest = hashlib.sha256(path.read_bytes()).digest() if path.exists() else b""
        if file.hash and file.hash.value == base64.urlsafe_b64encode(digest).decode().rstrip("="):
            yield path


def test_no_certificate_that_only_this_machine_trusts_is_in_any_layer(engine, image):
    """The build gets this machine's CA bundle as a secret. The base or a package has most of its certificates."""
    labels = engine.images.get(image).labels
    name, digest = (labels[f"org.opencontainers.image.base.{what}"] for what in ("name", "digest"))
    try:
        base = engine.images.get(name if engine.images.list(name) else f"{name}@{digest}")
    except docker.errors.ImageNotFound:
        unavailable(f"the base {name} is not here any more")
    layers = _layers(engine, image)
    ours = layers[: len(layers) - len(base.attrs["RootFS"]["Layers"])]
    assert len(ours) > 5
    public = set().union(*map(_certificates, [*_of_packages(), *(path for _, path in _files(layers[len(ours) :]))]))
    bundle = images.ca_bundle()
    private = (_certificates(Path(bundle)) if bundle else set()) - public
    if not private:
        pytest.skip("this machine trusts nothing but what everybody does: there is no certificate to look for")
    assert [name for name, path in _files(ours) if private & _certificates(path)] == []


def test_the_build_secret_and_the_package_index_left_no_trace(engine, image):
    history = json.dumps(engine.images.get(image).history()).lower()
    environment = " ".join(engine.images.get(image).attrs["Config"]["Env"]).lower()
    for word in ("index-url", "index_url", "extra-index", "trusted-host", "http_proxy", "https_proxy"):
        assert word not in history
        assert word not in environment
    script = """import json, pathlib
home = pathlib.Path.home()
paths = [home / n for n in (".config/uv", ".config/pip", ".netrc", ".aws", ".cache")]
paths += [pathlib.Path(n) for n in ("/run/secrets", "/etc/pip.conf")]
print(json.dumps([str(p) for p in paths if p.is_file() or p.is_dir() and any(p.iterdir())]))"""
    assert inside(engine, image, script) == []
