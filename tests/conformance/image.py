"""Rules that can be read from an image without its program: configuration and files."""

import docker

from tests.conformance.report import GUIDE, Report, require
from tests.support import engine

TRAINING_PAGE = GUIDE + "your-algorithms-training-algo-dockerfile.html"
INFERENCE_PAGE = GUIDE + "your-algorithms-inference-code.html"
_INITS = {"tini", "dumb-init", "docker-init", "tini-static"}
_SHELLS = {"sh", "bash", "dash", "ash"}


def check(client: docker.DockerClient, image: str, word: str, report: Report) -> None:
    """`word` is train or serve."""
    page = TRAINING_PAGE if word == "train" else INFERENCE_PAGE
    config = client.images.get(image).attrs["Config"]
    entrypoint = config.get("Entrypoint") or []
    programs = {part.rsplit("/", 1)[-1] for part in entrypoint[:1]}
    with report.rule("ENTRYPOINT is in exec form: no shell between SageMaker's signals and the program", page):
        shell = entrypoint[:2][-1:] == ["-c"] and programs & _SHELLS
        require(not shell, f"ENTRYPOINT is {entrypoint}: a shell is PID 1 and keeps SIGTERM from the program")
    with report.rule("no init program as ENTRYPOINT", page):
        require(
            not programs & _INITS, f"ENTRYPOINT starts {entrypoint[0] if entrypoint else ''}; the guide says not to use tini"
        )
    with report.rule("runs as root", INFERENCE_PAGE):
        user = (config.get("User") or "root").split(":")[0]
        require(user in ("root", "0"), f"USER is {user}; SageMaker expects root, and mounts /opt/ml for it")
    with report.rule("the image has nothing of its own in /opt/ml", page):
        found = _find(client, image, "find /opt/ml ! -type d 2>/dev/null | head -n 5; true")
        require(not found, f"SageMaker mounts over /opt/ml, these disappear: {', '.join(found)}")
    with report.rule("no NVIDIA driver in the image", page):
        found = _find(client, image, "find / -xdev \\( -name 'libnvidia-ml.so.*' -o -name 'libcuda.so.*' \\) 2>/dev/null; true")
        drivers = [path for path in found if "/compat/" not in path and "/stubs/" not in path]
        require(not drivers, f"the driver belongs to the host: {', '.join(drivers[:3])}")


def _find(client: docker.DockerClient, image: str, script: str) -> list[str]:
    with engine.container(client, image, ["-c", script], entrypoint=["/bin/sh"], network_mode="none") as box:
        engine.exit_code(box, 300)
        return engine.logs(box).split("\n")[:-1]
