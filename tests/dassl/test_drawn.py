"""INPUT.AUGMENT_ON_DEVICE: views that are drawn where an image is read, made on the device."""

import numpy as np
import pytest
import torch
from battery import made_trainer
from PIL import Image, ImageOps
from pretend_device import GPU, PretendedGPU
from torch.utils.data import default_collate
from torchvision.transforms import functional as F

from dassl.config import get_cfg_default
from dassl.data.drawn import DrawnViews
from dassl.data.drawn.operations import OPERATIONS
from dassl.data.pixels import network_pixels
from dassl.data.seeding import seeded
from dassl.data.transforms import build_transform
from dassl.engine.updating.updates import cut
from dassl.features.views import Augmentation
from dassl.utils import set_random_seed
from trainers.common.testtime.views import AugMixViews

SIDE = 32
CROP = {"TRANSFORMS": ("random_resized_crop", "random_flip"), "RRCROP_SCALE": (0.3, 1.0)}
COLOURS = {"TRANSFORMS": (*CROP["TRANSFORMS"], "colorjitter", "randomgrayscale"), "RGS_P": 0.5}
PILLOW = {
    "flip": lambda image, on: ImageOps.mirror(image) if on else image,
    "grey": lambda image, on: F.rgb_to_grayscale(image, 3) if on else image,
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "saturation": F.adjust_saturation,
    "hue": F.adjust_hue,
    "autocontrast": ImageOps.autocontrast,
    "equalize": ImageOps.equalize,
    "posterize": lambda image, bits: ImageOps.posterize(image, int(bits)),
    "solarize": ImageOps.solarize,
    "affine": lambda image, *matrix: image.transform(
        image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR
    ),
}
NUMBERS = {
    **dict.fromkeys(("flip", "grey"), ((0.0,), (1.0,))),
    **dict.fromkeys(("brightness", "contrast", "saturation"), ((0.3,), (1.7,))),
    "hue": ((-0.5,), (0.2,)),
    **dict.fromkeys(("autocontrast", "equalize"), ((), ())),
    "posterize": ((1.0,), (4.0,)),
    "solarize": ((100.0,), (256.0,)),
    "affine": ((1, 0.03, 2, 0, 1, 0), (0.99, -0.02, 0.4, 0.02, 0.99, -0.3)),
}


def photo(seed=0, height=48, width=60):
    """Smooth colours with some noise and a grey patch."""
    rng = np.random.RandomState(seed)
    coarse = Image.fromarray(rng.randint(0, 256, (5, 6, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    pixels = pixels + rng.randint(-9, 10, pixels.shape)
    pixels[:6, :6] = pixels[:6, :6, :1]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def levels(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


def both(settings, images, *, views=1, **more):
    """Ordinary views and drawn ones, as levels (B, 3, H, W), with the same seeds."""
    made = []
    for drawn in (False, True):
        cut = Augmentation.from_input(SIDE, **CROP | settings | more, AUGMENT_ON_DEVICE=drawn)
        transform, found = cut.train.build(), []
        for number in range(len(images) * views):
            with seeded(number):
                found.append(transform(images[number // views]))
        made.append(found)
    return torch.stack(made[0]).float(), DrawnViews.of(made[1])


# --------------------------------------------------------------------- operations
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_on_a_batch_gives_what_pillow_gives_for_each_view(name):
    images = [photo(seed, SIDE, SIDE) for seed in (0, 1)]
    numbers = torch.tensor(NUMBERS[name], dtype=torch.float32)

    made = OPERATIONS[name](torch.stack([levels(image) for image in images]), numbers)

    expected = [PILLOW[name](image, *n) for image, n in zip(images, NUMBERS[name], strict=True)]
    apart = (made - torch.stack([levels(image) for image in expected])).abs()
    assert apart.max() <= (6 if name == "hue" else 1 if name == "affine" else 0)
    assert (apart > 0).float().mean() < 0.01
    assert torch.equal(made, made.round()) and made.min() >= 0 and made.max() <= 255


# --------------------------------------------------------------------- views
@pytest.mark.parametrize(
    ("interpolation", "most"), [("nearest", 0), ("bilinear", 1), ("bicubic", 12)]
)
def test_drawn_views_are_the_ordinary_crops_and_flips(interpolation, most):
    ordinary, drawn = both({"INTERPOLATION": interpolation}, [photo(s) for s in range(6)])

    apart = (drawn.on("cpu") * 255 - ordinary).abs()

    assert tuple(drawn.shape) == tuple(ordinary.shape)
    assert apart.max() <= most and apart.mean() < 0.6


def test_drawn_views_get_the_ordinary_colours():
    ordinary, drawn = both(COLOURS, [photo(s) for s in range(8)])

    apart = (drawn.on("cpu") * 255 - ordinary).abs()

    assert len({plan.steps for _, plan in drawn.views}) == 8
    assert apart.mean() < 1 and (apart > 8).float().mean() < 0.01


def mixed(image, *, is_drawn, count=12):
    """AugMix views of an image of their size."""
    transform, found = AugMixViews(SIDE, (1.0, 1.0), is_drawn=is_drawn).build(), []
    for number in range(count):
        with seeded(number):
            found.append(transform(image))
    return DrawnViews.of(found) if is_drawn else torch.stack(found)


@pytest.mark.parametrize("kind", ["colours", "augmix"])
def test_a_view_does_not_depend_on_the_others_of_its_batch(kind):
    if kind == "colours":
        _, drawn = both(COLOURS, [photo(s) for s in range(6)])
    else:
        drawn = mixed(photo(), is_drawn=True)

    together = drawn.on("cpu")

    for row, view in enumerate(drawn):
        torch.testing.assert_close(DrawnViews.of([view]).on("cpu")[0], together[row])


def test_augmix_is_made_on_the_device_as_well():
    image = photo(3, SIDE, SIDE)
    ordinary, drawn = (mixed(image, is_drawn=is_drawn) for is_drawn in (False, True))

    apart = (drawn.on("cpu") - ordinary).abs() * 255

    named = {name for _, p in drawn.views for _, chain in p.chains for name, _ in chain}
    assert named == {"affine", "autocontrast", "equalize", "posterize", "solarize"}
    # where a flat crop has another ratio, its resize differs by a level, which equalize spreads
    assert apart.mean() < 0.5 and apart.median() < 0.01


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_images_of_other_modes_are_drawn_in_rgb(mode):
    image = photo().convert(mode)

    _, drawn = both({}, [image], views=2)

    assert torch.equal(drawn.on("cpu"), both({}, [image.convert("RGB")], views=2)[1].on("cpu"))


def test_views_of_an_image_share_its_bytes():
    image = photo()
    _, drawn = both({}, [image], views=16)

    assert len(drawn.parts) == 1
    assert len(drawn.data) <= 3 * image.width * image.height


def test_a_batch_holds_no_more_of_an_image_than_its_views_show():
    _, drawn = both({"RRCROP_SCALE": (0.1, 0.2)}, [photo(s) for s in range(4)])

    boxes = [plan.box for _, plan in drawn.views]
    assert all(box[:2] == (0, 0) for box in boxes)
    assert len(drawn.data) == sum(3 * height * width for _, _, height, width in boxes)


@pytest.mark.parametrize(
    ("settings", "height", "width"),
    [({"RRCROP_SCALE": (0.9, 1.0)}, 300, 400), ({"TRANSFORMS": ()}, 1, 600)],
)
def test_large_and_long_parts_are_resized_where_they_are_read(settings, height, width):
    ordinary, drawn = both(settings, [photo(0, height, width)])

    assert len(drawn.data) == 3 * SIDE * SIDE
    assert torch.equal(drawn.on("cpu") * 255, ordinary)


def test_nothing_waits_for_the_device():
    _, drawn = both(COLOURS, [photo(s, SIDE, SIDE) for s in range(6)])

    with PretendedGPU() as gpu:
        for views in (drawn, mixed(photo(), is_drawn=True)):
            assert views.on(GPU).device == GPU
        assert not gpu.waits


# --------------------------------------------------------------------- runs
def test_a_trainer_gets_the_pixels_that_loaders_would_make(tmp_path):
    images = []
    for drawn in ("False", "True"):
        trainer = made_trainer("MMA", tmp_path, "INPUT.AUGMENT_ON_DEVICE", drawn)
        set_random_seed(1)
        images.append(trainer.parse_batch_train(next(iter(trainer.train_loader_x)))[0])
        assert next(iter(trainer.test_loader))["img"].dtype == torch.float32

    ordinary, made = images
    assert (ordinary.shape, ordinary.dtype) == (made.shape, made.dtype)
    assert (ordinary - made).abs().mean() < 0.02


def test_several_views_per_image_become_a_batch_each():
    _, drawn = both({}, [photo(0), photo(1)], views=2)
    first, again, other, last = drawn

    batch = default_collate([{"img": [first, again]}, {"img": [other, last]}])

    pixels = drawn.on("cpu")
    assert torch.equal(batch["img"][0].on("cpu"), pixels[[0, 2]])
    assert torch.equal(batch["img"][1].on("cpu"), pixels[[1, 3]])


def test_items_of_a_wrapper_of_ones_own_may_be_pairs():
    _, drawn = both({}, [photo(0), photo(1)])

    images, labels = default_collate([(view, label) for label, view in enumerate(drawn)])

    assert torch.equal(images.on("cpu"), drawn.on("cpu")) and labels.tolist() == [0, 1]


def test_a_part_of_a_batch_holds_its_own_images():
    _, drawn = both({}, [photo(s) for s in range(3)], views=2)

    pieces = [piece["img"] for piece in cut({"img": drawn, "label": range(6)}, 2)]

    assert torch.equal(torch.cat([piece.on("cpu") for piece in pieces]), drawn.on("cpu"))
    assert [len(piece.parts) for piece in pieces] == [2, 2]
    assert all(len(piece.data) < len(drawn.data) for piece in pieces)


def test_a_trainer_that_moves_the_batch_itself_is_told_what_to_do():
    _, images = both({}, [photo()])

    for use in (lambda: images.to("cpu"), lambda: images[0]):
        with pytest.raises((AttributeError, TypeError), match="self.to_device.*set the key to"):
            use()


def test_a_network_that_normalises_nothing_gets_pixels_as_they_are():
    cfg = get_cfg_default()
    cfg.INPUT.SIZE, cfg.INPUT.AUGMENT_ON_DEVICE = (SIDE, SIDE), True
    view = build_transform(cfg)(photo())

    pixels = network_pixels(DrawnViews.of([view]), cfg.INPUT, "cpu")

    assert torch.equal(pixels, DrawnViews.of([view]).on("cpu"))


def test_chosen_steps_cannot_leave_the_normalisation_out():
    cfg = get_cfg_default()
    cfg.INPUT.TRANSFORMS, cfg.INPUT.AUGMENT_ON_DEVICE = ("normalize",), True

    with pytest.raises(ValueError, match=r"chosen steps \(\['random_flip'\]\) differ"):
        build_transform(cfg, choices=["random_flip"])


def test_stored_rows_of_drawn_views_are_other_rows(tmp_path):
    banks = [
        made_trainer("TaskRes", tmp_path, "INPUT.AUGMENT_ON_DEVICE", drawn).bank
        for drawn in ("False", "True")
    ]
    keys = [(b.augmentation.train.key, b.augmentation.test.key) for b in banks]
    items = made_trainer("TaskRes", tmp_path).dm.dataset.train_x[:3]

    rows = [bank.train(items, views=2).all() for bank in banks]

    assert keys[0][0] != keys[1][0] and keys[0][1] == keys[1][1]
    assert banks[1].encoded == 6  # none of the others was taken
    torch.testing.assert_close(*(r / r.norm(dim=-1, keepdim=True) for r in rows), atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("name", "transform", "said"),
    [
        ("MMA", "cutout", "cutout (n_holes=1, length=16)"),
        ("TaskRes", "randaugment", "randaugment (n=2, m=10)"),
        ("TaskRes", "random_crop", "random crop (padding = 4)"),
    ],
)
def test_what_cannot_be_made_on_the_device_is_named(tmp_path, name, transform, said):
    opts = ("INPUT.AUGMENT_ON_DEVICE", "True", "INPUT.TRANSFORMS", f"['{transform}', 'normalize']")

    with pytest.raises(ValueError, match="AUGMENT_ON_DEVICE is True") as caught:
        made_trainer(name, tmp_path, *opts)

    assert f"gives: {said}. Leave that out, or set" in str(caught.value)
