import os

import pytest
import torch

from containers.core import architectures, host
from containers.core.preprocessing import PreprocessSpec
from containers.train import features
from containers.train.agreement import StopRequested
from containers.train.data import LoaderPlan
from containers.train.distributed import Group
from tests.support.full_disk import files_of_at_most
from tests.support.training import in_ranks, make_index, same

SPEC = PreprocessSpec(resize=36, crop=32)
LOADING = LoaderPlan(0, pipe=False)


def mean(images):
    """A 'backbone' of 3 features."""
    return images.float().mean((1, 2))


def cache(directory, group=None, identity="one", forward=mean, spec=SPEC, check=lambda: None):
    return features.FeatureCache(
        directory, spec, group or Group.alone(), LOADING, forward=forward, identity=identity, check=check
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three chunks, the last of them short."""
    return make_index(tmp_path_factory.mktemp("many"), train=150, valid=1, test=0).splits["train"]


def test_features_are_those_of_each_photo_in_order_and_are_computed_once(tmp_path, photos):
    first = cache(tmp_path)
    found = first.features(photos)
    assert found.shape == (150, 3)
    assert first.computed == 150
    again = cache(tmp_path)
    assert torch.equal(again.features(photos), found)
    assert again.computed == 0


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_work_and_all_get_everything(tmp_path, photos, world):
    expected = cache(tmp_path / "alone").features(photos)

    def body(group):
        mine = cache(tmp_path / str(group.rank), group)
        return mine.features(photos), mine.computed

    found = in_ranks(world, body)
    assert all(torch.equal(rows, expected) for rows, _ in found)
    assert [count for _, count in found] == ([64 + 22, 64] if world == 2 else [64, 64, 22])


def test_other_weights_or_preprocessing_or_photos_find_nothing(tmp_path, photos):
    cache(tmp_path).features(photos[:64])
    for other in (cache(tmp_path, identity="two"), cache(tmp_path, spec=PreprocessSpec(resize=40, crop=32))):
        other.features(photos[:64])
        assert other.computed == 64
    path = photos[3].path
    data = path.read_bytes()
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))
    changed = cache(tmp_path)
    changed.features(photos[:64])
    assert changed.computed == 64


def test_a_torn_chunk_is_computed_again_loudly(tmp_path, photos, caplog):
    found = cache(tmp_path).features(photos)
    chunk = sorted(tmp_path.iterdir())[0]
    chunk.write_bytes(chunk.read_bytes()[:20])
    again = cache(tmp_path)
    assert torch.equal(again.features(photos), found)
    assert again.computed in (64, 22)
    assert caplog.records[-1].file == chunk.name


def test_a_full_scratch_disk_costs_the_shortcut_and_nothing_else(tmp_path, photos, caplog):
    with files_of_at_most(64):
        found = cache(tmp_path / "full").features(photos)
    assert "cached features not kept" in caplog.text
    assert list((tmp_path / "full").iterdir()) == []
    assert torch.equal(found, cache(tmp_path / "roomy").features(photos))


def test_a_stop_keeps_the_chunks_that_are_done(tmp_path, photos):
    polls = []

    def check():
        polls.append(1)
        if len(polls) == 3:
            raise StopRequested

    with pytest.raises(StopRequested):
        cache(tmp_path, check=check).features(photos)
    again = cache(tmp_path)
    again.features(photos)
    assert again.computed == 22


def test_the_identity_changes_with_any_backbone_value_and_not_with_the_head():
    name = "mobilenet_v3_small"
    model = architectures.build(name, 3)
    before = features.backbone_identity(model, name, None)
    with torch.no_grad():
        architectures.head(model, name).weight.add_(1)
        assert features.backbone_identity(model, name, None) == before
        model.features[0][1].running_mean[0] += 1
    assert features.backbone_identity(model, name, None) != before
    assert features.backbone_identity(model, name, torch.bfloat16) != features.backbone_identity(model, name, None)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_lite0"])
def test_head_on_features_is_the_model_and_the_model_is_put_back(name):
    torch.manual_seed(0)
    model = architectures.build(name, 3).train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        with features.headless(model, name) as backbone:
            rows = backbone(x)
        assert model.training
        model.eval()
        assert torch.allclose(architectures.head(model, name)(rows), model(x), atol=1e-5)
    assert same(dict(model.state_dict()), state)


def test_a_convolutional_head_is_not_cached_and_neither_is_more_than_fits():
    assert not features.can_cache(architectures.build("squeezenet1_1", 3), "squeezenet1_1", 10, 1)
    small = architectures.build("mobilenet_v3_small", 3)
    fits = host.free_memory() // 4 // (1024 * 4) // 2
    assert features.can_cache(small, "mobilenet_v3_small", fits, 1)
    assert not features.can_cache(small, "mobilenet_v3_small", fits, 8)  # every rank holds all of them
    assert not features.can_cache(small, "mobilenet_v3_small", 10**12, 1)
