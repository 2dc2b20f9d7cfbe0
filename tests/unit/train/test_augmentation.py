import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from containers.core.preprocessing import PreprocessSpec, decode
from containers.train.augmentation import batch_mixing, decode_fast, evaluation_photo, mix, photo_transform
from containers.train.config import TrainConfig
from containers.train.errors import DataError
from tests.support.training import photo

SPEC = PreprocessSpec(resize=36, crop=32)


def variants(folder):
    """Files that are photos, but not plain ones."""
    base = Image.open(photo(folder / "base.jpg", 1, 5, (60, 44)))
    base.save(folder / "png_named.jpg", "PNG")
    base.convert("CMYK").save(folder / "cmyk.jpg", "JPEG", quality=95)
    base.convert("P").save(folder / "palette.png")
    base.convert("L").save(folder / "grey.jpg", quality=95)
    Image.fromarray((torch.arange(60 * 44).view(44, 60) * 20).to(torch.uint16).numpy()).save(folder / "sixteen.png")
    turned = Image.Exif()
    turned[274] = 6
    base.save(folder / "turned.jpg", exif=turned, quality=95)
    base.save(folder / "progressive.jpg", progressive=True, quality=95)
    return sorted(folder.iterdir())


def test_every_kind_of_photo_decodes_as_evaluation_decodes_it(tmp_path):
    for path in variants(tmp_path):
        fast = decode_fast(path.read_bytes(), SPEC)
        slow = torch.from_numpy(np.array(decode(path.read_bytes()))).permute(2, 0, 1)
        assert fast.shape == slow.shape, path
        assert fast.dtype == torch.uint8
        assert (fast.int() - slow.int()).abs().float().mean() < 2, path


@pytest.mark.parametrize("augmentation", ["none", "light", "randaugment"])
def test_transforms_give_one_shape_and_repeat_for_a_seed(tmp_path, augmentation):
    transform = photo_transform(TrainConfig(augmentation=augmentation), SPEC)
    for path in variants(tmp_path):
        first, again, other = transform(path, 1), transform(path, 1), transform(path, 2)
        assert first.shape == (32, 32, 3)
        assert first.dtype == torch.uint8
        assert torch.equal(first, again)
        if augmentation == "none":
            assert torch.equal(first, evaluation_photo(path, SPEC))
    assert augmentation == "none" or not torch.equal(first, other)


@pytest.mark.parametrize("augmentation", ["light", "randaugment"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_augmentation_is_torchvisions_bit_for_bit(tmp_path, augmentation, interpolation):
    """Faster than v2's own pipeline, and the same pixels: a checkpoint of before resumes to the same weights."""
    spec = SPEC.model_copy(update={"interpolation": interpolation})
    strong = augmentation == "randaugment"
    mode = v2.InterpolationMode(interpolation)
    steps = [v2.RandomResizedCrop(32, scale=(0.08 if strong else 0.35, 1.0), interpolation=mode), v2.RandomHorizontalFlip()]
    theirs = v2.Compose([*steps, v2.RandAugment(num_ops=2, magnitude=9)] if strong else steps)
    ours = photo_transform(TrainConfig(augmentation=augmentation), spec)
    for path in variants(tmp_path):
        for seed in range(8):
            torch.manual_seed(seed)
            expected = theirs(decode_fast(path.read_bytes(), spec).contiguous()).permute(1, 2, 0)
            assert torch.equal(ours(path, seed), expected), (path.name, seed)


def test_a_truncated_photo_is_named(tmp_path):
    path = photo(tmp_path / "cut.jpg", 0, 0)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"cut\.jpg: not a readable image.*remove or replace"):
        photo_transform(TrainConfig(), SPEC)(path, 0)


def test_mixing_is_off_by_default_and_gives_soft_labels():
    assert batch_mixing(TrainConfig(), 3) is None
    images, labels = batch_mixing(TrainConfig(mixup=0.2, cutmix=1.0), 3)(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]))
    assert (images.shape, labels.shape) == ((4, 3, 8, 8), (4, 3))
    assert torch.allclose(labels.sum(1), torch.ones(4))


def test_seeds_are_spread():
    seeds = {mix(a, b, c) for a in range(10) for b in range(10) for c in range(100)}
    assert len(seeds) == 10_000
    assert all(0 <= seed < 2**63 for seed in seeds)
    ones = sum(bin(seed).count("1") for seed in seeds) / len(seeds)
    assert 31 < ones < 32
