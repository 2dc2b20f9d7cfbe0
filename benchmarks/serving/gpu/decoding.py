"""Decoding on the GPU (nvJPEG, through torchvision) in place of the fronts' CPU: tried and reported, no part of the server."""

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional

from containers.core.preprocessing import PreprocessSpec
from containers.serve.engines import Engine

_BATCH = 64


def tried(
    photos: Sequence[bytes], pixels: np.ndarray, spec: PreprocessSpec, engine: Engine, device: str, seconds: float
) -> dict[str, float | str]:
    """Photos per second of decode and resize on the GPU, in batches of 64, and how the engine's answers differ from those for
    `pixels`, which our own way made of the same photos. Where it cannot be done, `absent` says why.
    """
    encoded = [torch.frombuffer(bytearray(photo), dtype=torch.uint8) for photo in photos]
    try:
        ours, theirs = engine(pixels), engine(prepared(encoded, spec, device).cpu().numpy())
    except RuntimeError as error:
        return {"absent": str(error).splitlines()[0][:200]}
    batch = [encoded[index % len(encoded)] for index in range(_BATCH)]
    found: dict[str, float | str] = {
        "photos_per_second": _rate(lambda: prepared(batch, spec, device), device, seconds),
        "decode_only": _rate(lambda: decode_jpeg(batch, ImageReadMode.RGB, device=device), device, seconds),
    }
    return found | {
        "agreement": float((ours.argmax(1) == theirs.argmax(1)).mean()),
        "worst_dp": float(np.abs(ours - theirs).max()),
    }


def prepared(encoded: Sequence[Tensor], spec: PreprocessSpec, device: str) -> Tensor:
    """JPEGs of one size → uint8 (N, crop, crop, 3) on `device`: decoded, resized with antialiasing, the centre cut out."""
    images = torch.stack(decode_jpeg(list(encoded), ImageReadMode.RGB, device=device))
    filters = {"bilinear": functional.InterpolationMode.BILINEAR, "bicubic": functional.InterpolationMode.BICUBIC}
    resized = functional.resize(images, [spec.resize], filters[spec.interpolation], antialias=True)
    centre: Tensor = functional.center_crop(resized, [spec.crop, spec.crop])
    return centre.permute(0, 2, 3, 1).contiguous()


def _rate(work: Callable[[], object], device: str, seconds: float) -> float:
    """Photos per second; `work` does one batch."""
    for _ in range(2):
        work()
    _synchronise(device)
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        work()
        _synchronise(device)
        done += _BATCH
    return done / (time.perf_counter() - began)


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
