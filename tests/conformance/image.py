"""Rules that can be read from an image without its program: configuration and files."""

import docker

from tests.conformance.report import GUIDE, NotTried, Report, require
from tests.support import engine

INFERENCE = GUIDE + "your-algorithms-inference-code.html"
BOTH = GUIDE + "your-algorithms-training-algo-dockerfile.html " + INFERENCE
"""Both say it, one of `train` and one of `serve`."""
_INITS = {"tini", "dumb-init", "docker-init", "tini-static"}
_SHELLS = {"sh", "bash", "dash", "ash"}


def check(client: docker.DockerClient, image: str, report: Report) -> None:
    config = client.images.get(image).attrs["Config"]
    entrypoint = config.get("Entrypoint") or []
    programs = {part.rsplit("/", 1)[-1] for part in entrypoint[:1]}
    with report.rule("ENTRYPOINT is in exec form: no shell between SageMaker's signals and the program", BOTH):
        shell = entrypoint[:2][-1:] == ["-c"] and programs & _SHELLS
        require(not shell, f"ENTRYPOINT is {entrypoint}: a shell is PID 1 and keeps SIGTERM from the program")
    with report.rule("no init program as ENTRYPOINT", BOTH):
        require(
            not programs & _INITS, f"ENTRYPOINT starts {entrypoint[0] if entrypoint else ''}; the guide says not to use tini"
        )
    with report.rule("runs as root", INFERENCE):
        user = (config.get("User") or "root").split(":")[0]
        require(user in ("root", "0"), f"USER is {user}; SageMaker expects root, and mounts /opt/ml for it")
    with report.rule("the image has nothing of its own in /opt/ml", BOTH):
        found = _find(client, image, "find /opt/ml ! -type d 2>/dev/null | head -n 5; true")
        require(not found, f"SageMaker mounts over /opt/ml, these disappear: {', '.join(found)}")
    with report.rule("no NVIDIA driver in the image", BOTH):
        found = _find(client, image, "find / -xdev \\( -name 'libnvidia-ml.so.*' -o -name 'libcuda.so.*' \\) 2>/dev/null; true")
        drivers = [path for path in found if "/compat/" not in path and "/stubs/" not in path]
        require(not drivers, f"the driver belongs to the host: {', '.join(drivers[:3])}")


def _find(client: docker.DockerClient, image: str, script: str) -> list[str]:
    try:
        with engine.container(client, image, ["-c", script], entrypoint=["/bin/sh"], network_mode="none", user="0") as box:
            engine.exit_code(box, 300)
            return engine.logs(box).split("\n")[:-1]
    except docker.errors.APIError as error:
        raise NotTried(f"the image has no shell to look with: {str(error.explanation)[:200]}") from error
