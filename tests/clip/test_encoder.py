"""Encoders: normalisation, modes, digests; views: seeds, sizes, the engine's pipelines."""

import io
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms as T

from clip.model import build_clip
from dassl.config import get_cfg_default
from dassl.data.transforms import build_transform
from dassl.features.encoder import NetworkEncoder
from dassl.features.reader import decode
from dassl.features.views import Augmentation, view_seed
from dassl.utils import read_image
from golden_checks.tiny_clip import torch_state_dict
from trainers.common.clip_encoder import ClipEncoder

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
GOLDEN = Path(__file__).parents[1] / "golden" / "clip"


def small_network(dim: int = 5) -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, dim, 3, 2), nn.BatchNorm2d(dim), nn.Dropout(0.5))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def photo(width: int = 50, height: int = 40, mode: str = "RGB", seed: int = 0) -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    shape = (height, width) if channels == 1 else (height, width, channels)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8), mode)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_uint8_and_unit_pixels_give_the_same_features():
    encoder = NetworkEncoder(small_network(), MEAN, STD)
    pixels = torch.randint(0, 256, (4, 3, 17, 19), dtype=torch.uint8)

    from_bytes, from_floats = encoder(pixels), encoder(pixels.float() / 255)

    torch.testing.assert_close(from_bytes, from_floats, rtol=0, atol=0)
    assert from_bytes.shape == (4, 5) and from_bytes.dtype == torch.float32


def test_an_encoder_normalises_as_torchvision_does():
    network = small_network().eval()
    pixels = torch.rand(2, 3, 16, 16)

    features = NetworkEncoder(network, MEAN, STD)(pixels)

    expected = network(T.Normalize(MEAN, STD)(pixels)).detach()
    torch.testing.assert_close(features, expected, rtol=0, atol=0)


def test_encoding_neither_trains_the_network_nor_leaves_it_in_another_mode():
    network = small_network().train()
    network[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}

    features = NetworkEncoder(network, MEAN, STD, dim=5)(torch.rand(3, 3, 16, 16))

    assert not features.requires_grad
    assert [module.training for module in network] == [True, False, True, True, True]
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_the_key_tells_weights_normalisation_and_kind_apart():
    network = small_network()
    key = NetworkEncoder(network, MEAN, STD).key

    assert NetworkEncoder(small_network(), MEAN, STD).key == key
    assert NetworkEncoder(network, STD, STD).key != key
    with torch.no_grad():
        network[0].bias[0] += 1
    assert NetworkEncoder(network, MEAN, STD).key != key


def test_a_network_without_pooling_is_refused():
    with pytest.raises(ValueError, match=r"expected one row of features \(1, n\)"):
        NetworkEncoder(nn.Conv2d(3, 4, 3), MEAN, STD)


@pytest.mark.parametrize("name", ["tiny_vit", "tiny_rn"])
def test_the_clip_encoder_gives_raw_features_of_the_image_tower(name):
    clip = build_clip(torch_state_dict(name, 0))
    encoder = ClipEncoder(clip)
    size = clip.visual.input_resolution
    pixels = torch.rand(3, 3, size, size)

    features = encoder(pixels)

    expected = clip.encode_image(T.Normalize(clip.image_mean, clip.image_std)(pixels)).detach()
    torch.testing.assert_close(features, expected, rtol=1e-6, atol=1e-6)
    assert encoder.dim == features.shape[1] and encoder.size == size


def test_text_weights_do_not_change_the_key_of_a_clip_encoder():
    clip = build_clip(torch_state_dict("tiny_vit", 0))
    key = ClipEncoder(clip).key

    with torch.no_grad():
        clip.text_projection += 1

    assert ClipEncoder(clip).key == key
    assert ClipEncoder(clip, mean=MEAN, std=STD).key != key


def test_another_size_is_refused_with_both_sizes():
    encoder = ClipEncoder(build_clip(torch_state_dict("tiny_vit", 0)))

    with pytest.raises(ValueError, match=r"32, 32\); given \(1, 3, 48, 48\)"):
        encoder(torch.rand(1, 3, 48, 48))


@pytest.mark.parametrize("folder", sorted(GOLDEN.glob("preprocess_*")), ids=lambda path: path.name)
def test_the_test_view_of_an_image_without_alpha_is_openais_preprocessing(folder):
    config = json.loads((folder / "case.json").read_text(encoding="utf-8"))["config"]
    arrays = np.load(folder / "arrays.npz")
    settings = {"INTERPOLATION": config["interpolation"]}
    view = Augmentation.from_input(config["n_px"], **settings).test.build()
    normalise = T.Normalize(config["mean"], config["std"])
    pixels = [name for name in arrays.files if name.startswith("pixels_")]
    names = [name for name in pixels if arrays[name].shape[2:] != (4,)]

    for name in names:
        image = decode(name, png(Image.fromarray(arrays[name])))
        actual = normalise(view(image).float() / 255)
        expected = torch.from_numpy(arrays[name.replace("pixels", "out")])
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert names


def with_alpha(mode: str) -> bytes:
    """A PNG of a mode, every second pixel transparent."""
    if mode == "P":
        image = photo(mode="L").quantize(16)
        buffer = io.BytesIO()
        image.save(buffer, "PNG", transparency=3)
        return buffer.getvalue()
    image = photo(mode=mode)
    alpha = np.indices((image.height, image.width)).sum(0) % 2 * 255
    image.putalpha(Image.fromarray(alpha.astype(np.uint8)))
    return png(image)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("is_train", [False, True])
def test_feature_banks_and_the_data_loader_see_the_same_pixels_of_images_with_alpha(
    tmp_path, mode, is_train
):
    path = tmp_path / "photo.png"
    path.write_bytes(with_alpha(mode))
    cfg = get_cfg_default()
    cfg.INPUT.SIZE, cfg.INPUT.INTERPOLATION = (24, 24), "bicubic"
    cfg.INPUT.TRANSFORMS = ("random_resized_crop",)
    augmentation = Augmentation.from_cfg(cfg)
    view = (augmentation.train if is_train else augmentation.test).build()
    loader = build_transform(cfg, is_train=is_train)

    torch.manual_seed(3)
    banked = view(decode(str(path), path.read_bytes()))
    torch.manual_seed(3)
    loaded = loader(read_image(path))

    torch.testing.assert_close(banked.float() / 255, loaded, rtol=0, atol=0)


def test_a_view_drops_alpha_before_it_resizes():
    image = Image.open(io.BytesIO(with_alpha("RGBA")))
    view = Augmentation.from_input(24).test.build()

    assert torch.equal(view(image), view(image.convert("RGB")))


def test_a_training_view_is_the_engines_pipeline_without_normalisation():
    names = ("random_resized_crop", "random_flip", "normalize")
    augmentation = Augmentation.from_input(24, TRANSFORMS=names, RRCROP_SCALE=(0.5, 1.0))
    image = photo()
    plain = T.Compose(
        [
            T.RandomResizedCrop(24, (0.5, 1.0), interpolation=T.InterpolationMode.BICUBIC),
            T.RandomHorizontalFlip(),
            T.ToTensor(),
        ]
    )

    torch.manual_seed(3)
    actual = augmentation.train.build()(image)
    torch.manual_seed(3)
    expected = plain(image)

    assert actual.dtype == torch.uint8
    torch.testing.assert_close(actual.float() / 255, expected, rtol=0, atol=0)


def test_noise_on_normalised_pixels_keeps_its_scale():
    settings = {"TRANSFORMS": ("normalize", "gaussian_noise"), "GN_STD": 0.0, "GN_MEAN": 0.0}
    augmentation = Augmentation.from_input(24, PIXEL_MEAN=list(MEAN), **settings)
    image = photo(24, 24)

    random.seed(0)
    pixels = augmentation.train.build()(image)

    expected = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    torch.testing.assert_close(pixels, expected, rtol=1e-5, atol=1e-5)


def test_building_views_prints_nothing(capsys):
    Augmentation.from_input(24).test.build()

    assert capsys.readouterr().out == ""


def test_only_settings_that_matter_change_the_key_of_a_pipeline():
    crop = ("random_resized_crop", "normalize")
    base = Augmentation.from_input(24, TRANSFORMS=crop)
    other_mean = Augmentation.from_input(24, TRANSFORMS=crop, PIXEL_MEAN=[0.1, 0.2, 0.3])
    other_scale = Augmentation.from_input(24, TRANSFORMS=crop, RRCROP_SCALE=(0.5, 1.0))

    same = Augmentation.from_input(24, TRANSFORMS=crop, RRCROP_SCALE=(0.08, 1))

    assert same.train.key == other_mean.train.key == base.train.key
    assert other_scale.train.key != base.train.key
    assert other_scale.test.key == base.test.key
    assert Augmentation.from_input(32, TRANSFORMS=crop).train.key != base.train.key


def test_a_config_makes_the_same_views_as_keywords():
    cfg = get_cfg_default()
    cfg.INPUT.SIZE, cfg.INPUT.INTERPOLATION = (24, 24), "bicubic"
    cfg.INPUT.TRANSFORMS = ("random_flip",)

    augmentation = Augmentation.from_cfg(cfg)

    assert augmentation == Augmentation.from_input(24, TRANSFORMS=("random_flip",))
    assert augmentation.size == 24


def test_an_unknown_input_key_is_named():
    with pytest.raises(ValueError, match="RRCROP_SCALES"):
        Augmentation.from_input(24, RRCROP_SCALES=(0.5, 1.0))


def test_a_view_seed_depends_on_label_and_image():
    seeds = {view_seed(label, image) for label in ("0/0", "0/1", "1/0") for image in (b"a", b"b")}

    assert len(seeds) == 6 and all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_decode_as_pillow_decodes_them(mode, tmp_path):
    path = tmp_path / "photo.jpg"
    photo(mode=mode).save(path)

    image = decode(str(path), path.read_bytes())

    np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(path).convert("RGB")))
