"""Builds the training and the test pipeline from INPUT.

The order of the steps is fixed, whatever the order in INPUT.TRANSFORMS. Parity:
tests/golden/engine (transforms).
"""

from collections.abc import Callable, Collection, Sequence

from torchvision import transforms as T
from torchvision.transforms import InterpolationMode
from yacs.config import CfgNode

from dassl.config.conditions import Condition
from dassl.config.ranges import check_value, one_of
from dassl.utils.image import upright
from dassl.utils.text import did_you_mean

from ..drawn import Drawing
from ..pixels import Normalise
from .autoaugment import CIFAR10Policy, ImageNetPolicy, SVHNPolicy
from .ops import Cutout, GaussianNoise, InstanceNormalization, Random2DTranslation
from .randaugment import RandAugment, RandAugment2, RandAugmentFixMatch

AVAI_CHOICES = [
    "random_flip",
    "random_resized_crop",
    "normalize",
    "instance_norm",
    "random_crop",
    "random_translation",
    "center_crop",  # has no effect in training
    "cutout",
    "imagenet_policy",
    "cifar10_policy",
    "svhn_policy",
    "randaugment",
    "randaugment_fixmatch",
    "randaugment2",
    "gaussian_noise",
    "colorjitter",
    "randomgrayscale",
    "gaussian_blur",
]

INTERPOLATION_MODES = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST,
}

# The keys of INPUT that each transform reads, beside SIZE and INTERPOLATION.
READS = {
    "random_flip": (),
    "random_resized_crop": ("RRCROP_SCALE",),
    "normalize": ("PIXEL_MEAN", "PIXEL_STD"),
    "instance_norm": (),
    "random_crop": ("CROP_PADDING",),
    "random_translation": (),
    "center_crop": (),
    "cutout": ("CUTOUT_N", "CUTOUT_LEN"),
    "imagenet_policy": (),
    "cifar10_policy": (),
    "svhn_policy": (),
    "randaugment": ("RANDAUGMENT_N", "RANDAUGMENT_M"),
    "randaugment_fixmatch": ("RANDAUGMENT_N",),
    "randaugment2": ("RANDAUGMENT_N",),
    "gaussian_noise": ("GN_MEAN", "GN_STD"),
    "colorjitter": ("COLORJITTER_B", "COLORJITTER_C", "COLORJITTER_S", "COLORJITTER_H"),
    "randomgrayscale": ("RGS_P",),
    "gaussian_blur": ("GB_P", "GB_K"),
}

RESIZE_RULES = ("shortest", "squash")

_Step = tuple[str, Callable]


def _read_by(key: str) -> Condition:
    """A key of INPUT is read where a transform that reads it is among INPUT.TRANSFORMS."""
    readers = [name for name, keys in READS.items() if key in keys]
    listed = " or ".join(readers)
    return Condition(
        (f"INPUT.{key}",),
        lambda cfg: not set(readers).isdisjoint(cfg.INPUT.TRANSFORMS),
        f"it is read with {listed} only, and INPUT.TRANSFORMS is {{INPUT.TRANSFORMS}}",
    )


CONDITIONS = [
    _read_by(key) for key in dict.fromkeys(key for keys in READS.values() for key in keys)
]


def build_transform(
    cfg: CfgNode, is_train: bool = True, choices: Sequence[str] | None = None
) -> Callable | None:
    """Return the pipeline PIL image -> tensor (C, H, W), or None with INPUT.NO_TRANSFORM.

    In training with INPUT.AUGMENT_ON_DEVICE it gives drawn views, see ``dassl.data.drawn``.

    Args:
        cfg: the whole config; INPUT counts.
        is_train: the training or the test pipeline.
        choices: names of steps instead of INPUT.TRANSFORMS.

    Raises:
        ValueError: steps that cannot be made on the device as INPUT asks.
    """
    if cfg.INPUT.NO_TRANSFORM:
        print("Note: no transform is applied!")
        return None
    names = cfg.INPUT.TRANSFORMS if choices is None else choices
    steps = transform_steps(cfg.INPUT, names, is_train=is_train)
    print(f"Building transform_{'train' if is_train else 'test'}")
    if is_train and cfg.INPUT.AUGMENT_ON_DEVICE:
        if ("normalize" in names) != ("normalize" in cfg.INPUT.TRANSFORMS):
            raise ValueError(
                "INPUT.AUGMENT_ON_DEVICE is True, where INPUT.TRANSFORMS says whether batches are "
                f"normalised ({cfg.INPUT.TRANSFORMS}), but the chosen steps ({names}) differ. Put "
                "normalize into both or neither."
            )
        _show(steps, "made on the device: ")
        return drawing(steps)
    if cfg.INPUT.NORMALIZE_ON_DEVICE:
        steps = _as_bytes(steps)
    _show(steps)
    return T.Compose([step for _, step in steps])


def _show(steps: Sequence[_Step], where: str = "") -> None:
    for description, _ in steps:
        print(f"+ {where}{description}")


def drawing(steps: Sequence[_Step]) -> Drawing:
    """The steps of a training pipeline as one that draws, for INPUT.AUGMENT_ON_DEVICE.

    Raises:
        ValueError: a step that is not made on the device.
    """
    return Drawing([step for step in steps if not isinstance(step[1], (T.ToTensor, Normalise))])


def _as_bytes(steps: Sequence[_Step]) -> list[_Step]:
    """The same without what ``dassl.data.pixels.network_pixels`` does to a batch.

    Raises:
        ValueError: another step works on scaled pixels, or none normalises them.
    """
    if [type(step) for _, step in steps[-2:]] != [T.ToTensor, Normalise]:
        last = next(i for i, (_, step) in enumerate(steps) if isinstance(step, T.ToTensor))
        named = ", ".join(description for description, _ in steps[last + 1 :]) or "nothing"
        raise ValueError(
            "INPUT.NORMALIZE_ON_DEVICE is True, which needs pixels that are normalised and nothing "
            f"else once they are tensors, but INPUT.TRANSFORMS gives: {named}. Set it to False."
        )
    return [*steps[:-2], ("to bytes, normalised on the device", T.PILToTensor())]


def transform_steps(cfg: CfgNode, choices: Collection[str], *, is_train: bool) -> list[_Step]:
    """(description, step) of a pipeline, in order.

    Args:
        cfg: the INPUT node.
        choices: names of steps.
        is_train: the training or the test pipeline.

    Raises:
        ValueError: an unknown name, interpolation or rule of resizing.
    """
    for choice in choices:
        if choice not in AVAI_CHOICES:
            raise ValueError(
                f'INPUT.TRANSFORMS names "{choice}", which is not a known transform. '
                f"{did_you_mean(choice, AVAI_CHOICES)}"
            )
    check_value("INPUT.INTERPOLATION", cfg.INTERPOLATION, one_of(*INTERPOLATION_MODES))
    check_value("INPUT.RESIZE", cfg.get("RESIZE", "shortest"), one_of(*RESIZE_RULES))
    steps = (_train_steps if is_train else _test_steps)(cfg, choices)
    if cfg.get("UPRIGHT", False):
        steps.insert(0, ("turn upright by the EXIF tag", upright))
    return steps


def _train_steps(cfg: CfgNode, choices: Collection[str]) -> list[_Step]:
    height, width = cfg.SIZE
    interpolation = INTERPOLATION_MODES[cfg.INTERPOLATION]
    steps: list[_Step] = []
    if "random_crop" not in choices and "random_resized_crop" not in choices:
        resize = T.Resize((height, width), interpolation=interpolation)
        steps.append((f"resize to {height}x{width}", resize))
    if "random_translation" in choices:
        steps.append(("random translation", Random2DTranslation(height, width)))
    if "random_crop" in choices:
        crop = T.RandomCrop((height, width), padding=cfg.CROP_PADDING)
        steps.append((f"random crop (padding = {cfg.CROP_PADDING})", crop))
    if "random_resized_crop" in choices:
        size, scale = (height, width), tuple(cfg.RRCROP_SCALE)
        crop = T.RandomResizedCrop(size, scale=scale, interpolation=interpolation)
        steps.append((f"random resized crop (size={size}, scale={scale})", crop))
    if "random_flip" in choices:
        steps.append(("random flip", T.RandomHorizontalFlip()))
    steps += [make() for name, make in _colour_steps(cfg).items() if name in choices]
    steps.append(("to torch tensor of range [0, 1]", T.ToTensor()))
    if "cutout" in choices:
        n_holes, length = cfg.CUTOUT_N, cfg.CUTOUT_LEN
        steps.append((f"cutout (n_holes={n_holes}, length={length})", Cutout(n_holes, length)))
    if "normalize" in choices:
        steps.append(normalize_step(cfg))
    if "gaussian_noise" in choices:
        noise = GaussianNoise(cfg.GN_MEAN, cfg.GN_STD)
        steps.append((f"gaussian noise (mean={cfg.GN_MEAN}, std={cfg.GN_STD})", noise))
    if "instance_norm" in choices:
        steps.append(("instance normalization", InstanceNormalization()))
    return steps


def _colour_steps(cfg: CfgNode) -> dict[str, Callable[[], _Step]]:
    """Return what makes the policies and colour operations, in their fixed order."""
    n, m = cfg.RANDAUGMENT_N, cfg.RANDAUGMENT_M

    def jitter() -> Callable:
        return T.ColorJitter(
            brightness=cfg.COLORJITTER_B,
            contrast=cfg.COLORJITTER_C,
            saturation=cfg.COLORJITTER_S,
            hue=cfg.COLORJITTER_H,
        )

    def blur() -> Callable:
        return T.RandomApply([T.GaussianBlur(cfg.GB_K)], p=cfg.GB_P)

    return {
        "imagenet_policy": lambda: ("imagenet policy", ImageNetPolicy()),
        "cifar10_policy": lambda: ("cifar10 policy", CIFAR10Policy()),
        "svhn_policy": lambda: ("svhn policy", SVHNPolicy()),
        "randaugment": lambda: (f"randaugment (n={n}, m={m})", RandAugment(n, m)),
        "randaugment_fixmatch": lambda: (f"randaugment_fixmatch (n={n})", RandAugmentFixMatch(n)),
        "randaugment2": lambda: (f"randaugment2 (n={n})", RandAugment2(n)),
        "colorjitter": lambda: ("color jitter", jitter()),
        "randomgrayscale": lambda: ("random gray scale", T.RandomGrayscale(p=cfg.RGS_P)),
        "gaussian_blur": lambda: (f"gaussian blur (kernel={cfg.GB_K})", blur()),
    }


def _test_steps(cfg: CfgNode, choices: Collection[str]) -> list[_Step]:
    height, width = cfg.SIZE
    interpolation = INTERPOLATION_MODES[cfg.INTERPOLATION]
    if cfg.get("RESIZE", "shortest") == "squash":
        resize = T.Resize((height, width), interpolation=interpolation)
        steps = [(f"resize the whole image to {height}x{width}", resize)]
    else:
        edge = max(height, width)
        resize = T.Resize(edge, interpolation=interpolation)
        crop = T.CenterCrop((height, width))
        steps = [
            (f"resize the smaller edge to {edge}", resize),
            (f"{height}x{width} center crop", crop),
        ]
    steps.append(("to torch tensor of range [0, 1]", T.ToTensor()))
    if "normalize" in choices:
        steps.append(normalize_step(cfg))
    if "instance_norm" in choices:
        steps.append(("instance normalization", InstanceNormalization()))
    return steps


def normalize_step(cfg: CfgNode) -> _Step:
    """The normalisation of an INPUT node, with its description."""
    mean, std = tuple(cfg.PIXEL_MEAN), tuple(cfg.PIXEL_STD)
    return f"normalization (mean={list(mean)}, std={list(std)})", Normalise(mean, std)
