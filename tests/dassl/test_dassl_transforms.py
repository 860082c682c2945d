"""Image pipelines beyond the golden cases."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from dassl.config import get_cfg_default
from dassl.data.transforms import AVAI_CHOICES, Cutout, InstanceNormalization, build_transform


@pytest.fixture
def image():
    pixels = np.random.default_rng(0).integers(0, 255, (40, 56, 3), np.uint8)
    return Image.fromarray(pixels)


def make(*names, **values):
    cfg = get_cfg_default()
    cfg.INPUT.SIZE = (24, 32)
    cfg.INPUT.TRANSFORMS = names
    for key, value in values.items():
        cfg.INPUT[key] = value
    return cfg


@pytest.mark.parametrize("name", AVAI_CHOICES)
def test_every_transform_runs_and_keeps_the_size(name, image):
    transform = build_transform(make(name, GB_P=1.0), is_train=True)

    for seed in range(5):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        result = transform(image)
        assert result.shape == (3, 24, 32)
        assert torch.isfinite(result).all()


def test_random_transforms_depend_on_the_seeds_alone(image):
    names = ("random_resized_crop", "randaugment2", "randaugment_fixmatch", "gaussian_noise")
    transform = build_transform(make(*names), is_train=True)

    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        results.append(transform(image))

    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    assert not torch.equal(results[0], results[2])


def test_an_unknown_transform_gets_a_did_you_mean():
    with pytest.raises(ValueError, match='"random_flipp".*Did you mean "random_flip"'):
        build_transform(make("random_flipp"))


def test_an_unknown_interpolation_gets_a_did_you_mean():
    with pytest.raises(ValueError, match='Did you mean "bicubic"'):
        build_transform(make(INTERPOLATION="bicubik"))


def test_no_transform_gives_none():
    assert build_transform(make(NO_TRANSFORM=True)) is None


def test_choices_replace_those_of_the_config(capsys):
    build_transform(make("random_flip"), is_train=True, choices=["random_crop"])

    printed = capsys.readouterr().out
    assert "random crop" in printed
    assert "random flip" not in printed


def test_cutout_is_clipped_at_the_border():
    np.random.seed(0)

    result = Cutout(n_holes=3, length=100)(torch.ones(3, 8, 6))

    assert result.sum() == 0


def test_instance_normalization_gives_zero_mean_and_unit_std():
    result = InstanceNormalization()(torch.rand(3, 20, 30))

    torch.testing.assert_close(result.mean((1, 2)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(result.std((1, 2)), torch.ones(3), rtol=1e-5, atol=0)
