"""What training does to a photo before the model sees it.

A sample's random numbers depend on (seed, epoch, index) alone, never on which process drew it or what came before, so a
resumed run continues bitwise with any number of loader workers. Mixing of whole batches happens on the device.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from containers.core.errors import ImageError
from containers.core.preprocessing import PreprocessSpec, decode, preprocess
from containers.train.config import TrainConfig
from containers.train.errors import DataError

_JPEG = b"\xff\xd8\xff"
_MASK = (1 << 64) - 1
_FLIP = 0.5


def mix(*parts: int) -> int:
    """One well-spread 63-bit seed from several integers (the finaliser of splitmix64, applied per part)."""
    state = 0x9E3779B97F4A7C15
    for part in parts:
        state = (state ^ (part & _MASK)) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state >> 1


def seed_everything(seed: int, device: torch.device) -> None:
    """What torch.manual_seed means. That one, where CUDA is built in and not in use, keeps a stack trace of every call."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def read_photo(path: Path) -> bytes:
    """Raises DataError naming the file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} could be read at the start and cannot be now ({error.strerror}): restore it") from error


def evaluation_photo(path: Path, spec: PreprocessSpec) -> Tensor:
    """Exactly what serving feeds the model: uint8 (crop, crop, 3)."""
    try:
        pixels = preprocess(read_photo(path), spec)
    except ImageError as error:
        raise DataError(f"{path}: {error}: remove or replace it") from error
    return torch.from_numpy(np.array(pixels))


def decode_fast(data: bytes, spec: PreprocessSpec) -> Tensor:
    """uint8 (3, H, W), upright. Plain JPEGs by torchvision's decoder, everything else (CMYK, PNG, …) by Pillow.

    The two decoders differ by rounding; evaluation always uses Pillow, as serving does. Raises ImageError.
    """
    if data.startswith(_JPEG):
        try:
            image: Tensor = decode_image(
                torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.UNCHANGED, apply_exif_orientation=True
            )
        except RuntimeError:
            image = torch.empty(0)
        if image.dim() == 3 and image.shape[0] in (1, 3):
            return image.expand(3, -1, -1)
    return torch.from_numpy(np.array(decode(data, spec))).permute(2, 0, 1)


def photo_transform(config: TrainConfig, spec: PreprocessSpec) -> Callable[[Path, int], Tensor]:
    """(path, seed) → uint8 (crop, crop, 3), for training."""
    if config.augmentation == "none":
        return lambda path, _seed: evaluation_photo(path, spec)
    interpolation = v2.InterpolationMode.BICUBIC if spec.interpolation == "bicubic" else v2.InterpolationMode.BILINEAR
    strong = config.augmentation == "randaugment"
    crop = v2.RandomResizedCrop(spec.crop, scale=(0.08 if strong else 0.35, 1.0), interpolation=interpolation, antialias=True)
    enhance = v2.RandAugment(num_ops=2, magnitude=9) if strong else None

    def apply(path: Path, seed: int) -> Tensor:
        try:
            image = decode_fast(read_photo(path), spec)
        except ImageError as error:
            raise DataError(f"{path}: {error}: remove or replace it") from error
        torch.default_generator.manual_seed(seed)  # v2 draws from it
        pixels = _random_crop(crop, image)
        if torch.rand(1) < _FLIP:
            pixels = pixels.flip(-1)
        if enhance is not None:
            pixels = enhance(pixels)
        return pixels.permute(1, 2, 0).contiguous()

    return apply


def _random_crop(crop: v2.RandomResizedCrop, image: Tensor) -> Tensor:
    """What `crop(image)` returns, bit for bit, in half the time: the cut is made channels_last, as the decoder left it, for
    which torch has a faster resize; and it comes out as the batch wants it, (crop, crop, 3) in memory.
    """
    box = crop.make_params([image])
    cut = image[None, :, box["top"] : box["top"] + box["height"], box["left"] : box["left"] + box["width"]]
    cut = cut.contiguous(memory_format=torch.channels_last)
    resized: Tensor = v2.functional.resize(cut, list(crop.size), crop.interpolation, antialias=True)
    return resized[0]


def batch_mixing(config: TrainConfig, num_classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """(images (N, 3, S, S), labels (N)) → mixed images and soft labels (N, classes); None where neither is on."""
    kinds: list[v2.Transform] = []
    if config.mixup > 0:
        kinds.append(v2.MixUp(alpha=config.mixup, num_classes=num_classes))
    if config.cutmix > 0:
        kinds.append(v2.CutMix(alpha=config.cutmix, num_classes=num_classes))
    chosen: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = v2.RandomChoice(kinds) if kinds else None
    return chosen
