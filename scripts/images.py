"""Build the two images: what make images does, and make demo where there is a Docker engine. Standard library only.

The base is BASE_IMAGE if that is set, else the public Python image if it is here or can be pulled within 20 seconds, else
one made from Debian packages (make base). This machine's CA bundle goes to the build as a secret: into no layer.
"""

import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path

from scripts.environment import SIZES
from scripts.machine import GB, ROOT, Docker, NoDocker, Stop, check_disk, find_docker, output, refused, run, say

PUBLIC_BASE = "python:3.11-slim-bookworm@sha256:528257d48c1da0dcecc2e725d1ae34498d60c965f1241e39cd6a85a8859bdf84"
"""By digest; Dockerfile and docker-compose.yml have the same. docs/decisions/003 says how to move to a newer one."""
OWN_BASE = "kennel-base:bookworm"
TAGS = {"serve": "kennel-serve:dev", "train": "kennel-train:dev"}
PULL_SECONDS = 20.0
DISK_BYTES = 18 * GB  # two images 7.3, build cache of packages 7, while a layer is exported
LEFT_BYTES = 14 * GB  # of that, what stays
COMPILE_BYTES = 2 * GB  # more with COMPILE=1, and stays: 0.8 in the image, 1.1 in the build cache of packages
COMPILE_DOWNLOAD = 0.3 * GB
CA_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


class NoBase(Exception):
    """No base image can be had here; why, as half a sentence."""


def base_image(docker: Docker) -> str:
    """The base to build on. Raises NoBase where it can neither be pulled nor made."""
    if chosen := os.environ.get("BASE_IMAGE"):
        return chosen
    for present in (PUBLIC_BASE, OWN_BASE):
        if docker.has_image(present):
            return present
    say(f"Base image: pulling {PUBLIC_BASE} ({PULL_SECONDS:.0f} seconds at most)")
    deadline = time.monotonic() + PULL_SECONDS
    tag = PUBLIC_BASE.partition("@")[0]
    for name in (PUBLIC_BASE, tag):  # a registry may have dropped what is pinned, but not the tag
        if output([docker.cli, "pull", "-q", name], timeout=max(0.1, deadline - time.monotonic())) is not None:
            if name == tag:
                say(f"The pinned digest could not be pulled: building on what {tag} is today, {digest(docker, tag)}")
            return name
    if docker.has_image(tag):  # without a network, what an earlier pull left
        return tag
    say("It cannot be pulled here: making one from Debian packages")
    made = subprocess.run([ROOT / "scripts" / "make_base.sh", OWN_BASE], check=False, cwd=ROOT, env=_with_cli(docker))
    if made.returncode == 0:
        return OWN_BASE
    raise NoBase(f"the base image can neither be pulled nor made ({PUBLIC_BASE}): set BASE_IMAGE")


def build(docker: Docker) -> None:
    """Build both images, reusing every layer that is unchanged. Raises NoBase, Stop."""
    absent = not all(map(docker.has_image, TAGS.values()))
    more, more_download = (COMPILE_BYTES, COMPILE_DOWNLOAD) if _with_compiler() else (0, 0)
    if absent:
        root = output([docker.cli, "info", "-f", "{{.DockerRootDir}}"])
        if root and Path(root).exists():
            check_disk(Path(root), DISK_BYTES + more, "building the images")
    base = base_image(docker)
    if absent:
        download, left = SIZES["train"][0] + SIZES["serve"][0] + more_download, LEFT_BYTES + more
        say(f"Building the images: up to {download / GB:.1f} GB of packages to download, {left / GB:.0f} GB on disk")
    arguments = build_arguments(docker, base)
    for target, tag in TAGS.items():
        build_one(docker, target, tag, arguments)


def _with_compiler() -> bool:
    """COMPILE, which chooses a stage by its name: a wrong one would be an image that no registry has. Raises Stop."""
    value = os.environ.get("COMPILE", "")
    if value not in ("", "0", "1"):
        raise Stop(f"COMPILE={value} is neither 0 nor 1 (with what torch.compile needs: docs/decisions/002-no-triton.md)")
    return value == "1"


def build_arguments(docker: Docker, base: str) -> list[str]:
    """Options of `docker build`: the base, what the labels say, what the environment chooses, this machine's CA bundle."""
    arguments = ["--build-arg", f"BASE_IMAGE={pinned(docker, base)}"]
    arguments += ["--label", f"org.opencontainers.image.base.name={base.partition('@')[0]}"]
    arguments += ["--label", f"org.opencontainers.image.base.digest={digest(docker, base)}"]
    arguments += ["--build-arg", f"VERSION={version()}"]
    arguments += ["--build-arg", f"REVISION={output(['git', 'rev-parse', 'HEAD']) or 'unknown'}"]
    for name in ("COMPAT_IMAGE", "PRETRAINED", "COMPILE"):
        if value := os.environ.get(name):
            arguments += ["--build-arg", f"{name}={value}"]
    if bundle := ca_bundle():
        arguments += ["--secret", f"id=ca,src={bundle}"]
    return arguments


def build_one(docker: Docker, target: str, tag: str, arguments: list[str]) -> None:
    """Raises Stop where it fails."""
    say(f"Image {tag}")
    run(
        [docker.cli, "build", *arguments, "-f", "containers/Dockerfile", "--target", target, "-t", tag, "."],
        f"{tag} could not be built",
        env={"DOCKER_BUILDKIT": "1"},
    )


def ca_bundle() -> str | None:
    """The file of certificates that this machine trusts."""
    return os.environ.get("SSL_CERT_FILE") or next(filter(os.path.exists, CA_BUNDLES), None)


def pinned(docker: Docker, image: str) -> str:
    """The image by the digest it has in its registry, so that every stage and both images stand on the same bytes though the
    tag may move meanwhile; one that was made here is in no registry, and is its own tag.
    """
    known = output([docker.cli, "image", "inspect", "-f", "{{range .RepoDigests}}{{println .}}{{end}}", image])
    return known.split()[0] if known and "@sha256:" in known else image


def digest(docker: Docker, image: str) -> str:
    """sha256:… of the image as its registry knows it; of an image that was made here, its own id."""
    known = output([docker.cli, "image", "inspect", "-f", "{{range .RepoDigests}}{{.}} {{end}}{{.Id}}", image])
    return known.split()[0].rpartition("@")[2] if known else "unknown"


def version() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def _with_cli(docker: Docker) -> dict[str, str]:
    return {**os.environ, "PATH": f"{docker.cli.parent}{os.pathsep}{os.environ['PATH']}"}


def main() -> int:
    try:
        build(find_docker())
    except (NoDocker, NoBase, Stop) as problem:
        print(f"images: {problem}", file=sys.stderr)
        return 1
    except OSError as problem:
        print(f"images: {refused(problem, ROOT)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
