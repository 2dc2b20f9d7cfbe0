"""ImageNet weights for everything but the head, from wherever this machine has them.

In this order: the `pretrained` channel (network isolation), the directory KENNEL_PRETRAINED_DIR names (an image sets it to
what its build baked in), torchvision's download. A file is ARCHITECTURE.safetensors, ARCHITECTURE.pth or torchvision's own
file name; .pth files are read with `weights_only=True`, so that no code in them runs.
"""

import os
import pickle
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import get_weight

from containers.core import architectures, manifest
from containers.core.errors import ConfigError

ENVIRONMENT = "KENNEL_PRETRAINED_DIR"
DOWNLOAD_TIMEOUT_SECONDS = 15.0
_UNREADABLE = (RuntimeError, EOFError, LookupError, ValueError, AttributeError, ImportError, TypeError, pickle.UnpicklingError)
"""torch.hub's word for a download with another hash, and what bytes that are no pickle can end in (pickle's manual)."""


def load(model: nn.Module, architecture: str, directory: Path | None) -> str:
    """Load ImageNet weights into all layers of `model` but its head; returns where they came from, for the provenance.

    `directory` is the `pretrained` channel, None where the job has none; a channel that lacks the weights is a mistake, not
    a reason to look elsewhere. Raises ConfigError when no source has them or they do not fit.
    """
    if directory is not None:
        path = find(directory, architecture)
        if path is None:
            raise ConfigError(
                f"the pretrained weights' folder {directory} holds none of {', '.join(_names(architecture))}: "
                "add one of them, or leave out --pretrained (on SageMaker the pretrained channel)"
            )
        return _from_file(model, architecture, path, "pretrained channel")
    baked = os.environ.get(ENVIRONMENT)
    if baked and (path := find(Path(baked), architecture)):
        return _from_file(model, architecture, path, "image")
    return _from_torchvision(model, architecture)


def find(directory: Path, architecture: str) -> Path | None:
    """The file with this architecture's weights in `directory`, None where there is none."""
    return next((path for name in _names(architecture) if (path := directory / name).is_file()), None)


def _names(architecture: str) -> list[str]:
    names = [f"{architecture}.safetensors", f"{architecture}.pth"]
    if weights := architectures.lookup(architecture).weights:
        names.append(Path(urlsplit(get_weight(weights).url).path).name)
    return names


def _from_file(model: nn.Module, architecture: str, path: Path, source: str) -> str:
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, *_UNREADABLE) as error:
        raise ConfigError(f"pretrained weights {path} cannot be read ({_line(error)}): copy or download them again") from error
    _load_backbone(model, architecture, state, str(path))
    return f"{source}: {path.name} (sha256 {manifest.sha256(path)})"


def _from_torchvision(model: nn.Module, architecture: str) -> str:
    name = architectures.lookup(architecture).weights
    remedy = (
        f"name a folder with {architecture}.safetensors (or torchvision's .pth) by --pretrained (on SageMaker the pretrained "
        "channel), use an image with these weights baked in, "
        "or train from scratch with --pretrained none (there pretrained=none)"
    )
    if name is None:
        raise ConfigError(f"torchvision has no ImageNet weights of {architecture}: {remedy}")
    url = get_weight(name).url
    try:
        with _socket_timeout(DOWNLOAD_TIMEOUT_SECONDS):
            state = torch.hub.load_state_dict_from_url(
                url, map_location="cpu", progress=False, check_hash=True, weights_only=True
            )
    except (OSError, HTTPException) as error:  # URLError, timeouts and a full disk are all OSErrors
        raise ConfigError(f"cannot download the ImageNet weights of {architecture} ({_line(error)}): {remedy}") from error
    except _UNREADABLE as error:
        kept = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name  # read unseen where it is there
        again = f"delete {kept} and start again" if kept.exists() else "start again"
        raise ConfigError(
            f"the ImageNet weights of {architecture} from {url} are damaged ({_line(error)}): {again}; or {remedy}"
        ) from error
    _load_backbone(model, architecture, state, name)
    return f"torchvision: {name}"


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0].strip()


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """torch.hub passes no timeout to urlopen, so that a network which drops packets would hang for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _load_backbone(model: nn.Module, architecture: str, state: Mapping[str, Tensor], where: str) -> None:
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f"{where} is not a state dict (names and tensors)")
    prefix = architectures.head_prefix(architecture)
    backbone = {name: value for name, value in state.items() if not name.startswith(prefix)}
    try:
        result = model.load_state_dict(backbone, strict=False)
    except RuntimeError as error:
        reason = str(error).partition("\n")[2].partition("\n")[0].strip()
        raise ConfigError(f"{where} does not fit {architecture}: {reason}") from error
    wrong = [name for name in result.missing_keys if not name.startswith(prefix)] + result.unexpected_keys
    if wrong:
        raise ConfigError(f"{where} does not fit {architecture}: {len(wrong)} tensors differ in name, the first is {wrong[0]}")
