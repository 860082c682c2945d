"""Load CLIP models by name and tokenize text, with the interface of OpenAI's package.

CLIP: Radford et al., ICML 2021, arXiv:2103.00020. Parity is tested in tests/golden/clip.
The official code is MIT.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import (
    CenterCrop,
    Compose,
    InterpolationMode,
    Normalize,
    Resize,
    ToTensor,
)

from .activation import check_activation, split_activation
from .checkpoint import read_checkpoint
from .download import fetch, weights_dir
from .files import is_open_clip_folder, load_file
from .model import CLIP, TowerHook, build_clip, build_model
from .open_clip_models import NAMES as OPEN_CLIP_NAMES
from .open_clip_models import PREFIX as OPEN_CLIP
from .open_clip_models import load_open_clip
from .tokens import default_tokenizer, tokenize
from .two_towers import IMAGE_MEAN, IMAGE_STD, TwoTowers

__all__ = [
    "TowerHook",
    "available_models",
    "build_model",
    "fetch_weights",
    "load",
    "load_backbone",
    "tokenize",
    "weights_path",
]

_URL = "https://openaipublic.azureedge.net/clip/models"
_OPENAI_FILES = {  # name -> sha256, file, name in open_clip and on the Hugging Face hub
    "RN50": (
        "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
        "RN50.pt",
        "timm/resnet50_clip.openai",
    ),
    "RN101": (
        "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599",
        "RN101.pt",
        "timm/resnet101_clip.openai",
    ),
    "RN50x4": (
        "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd",
        "RN50x4.pt",
        "timm/resnet50x4_clip.openai",
    ),
    "RN50x16": (
        "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa",
        "RN50x16.pt",
        "timm/resnet50x16_clip.openai",
    ),
    "RN50x64": (
        "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c",
        "RN50x64.pt",
        "timm/resnet50x64_clip.openai",
    ),
    "ViT-B/32": (
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
        "ViT-B-32.pt",
        "timm/vit_base_patch32_clip_224.openai",
    ),
    "ViT-B/16": (
        "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
        "ViT-B-16.pt",
        "timm/vit_base_patch16_clip_224.openai",
    ),
    "ViT-L/14": (
        "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
        "ViT-L-14.pt",
        "timm/vit_large_patch14_clip_224.openai",
    ),
    "ViT-L/14@336px": (
        "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
        "ViT-L-14-336px.pt",
        "timm/vit_large_patch14_clip_336.openai",
    ),
}
_WEIGHTS = Path(__file__).resolve().parent / "weights"
_TOY_FILES = {"toy/ViT": _WEIGHTS / "toy_vit.pt", "toy/RN": _WEIGHTS / "toy_rn.pt"}


class _Models(dict[str, str]):
    """Name -> URL, as code written for OpenAI's CLIP looks it up; a file is its own place."""

    def __missing__(self, name: str) -> str:
        if os.path.isfile(name):
            return name
        raise RuntimeError(
            f'"{name}" is neither a name nor a file that code written for OpenAI\'s CLIP can load. '
            f"It takes {', '.join(self)}, or the path of a weights file in OpenAI's layout."
        )


_MODELS = _Models({name: f"{_URL}/{sha}/{file}" for name, (sha, file, _) in _OPENAI_FILES.items()})
_MODELS.update({name: str(path) for name, path in _TOY_FILES.items()})


def available_models() -> list[str]:
    """Names that `load` knows: OpenAI's models and the embedded toy backbones."""
    return list(_MODELS)


def _download(url: str, root: str | os.PathLike | None = None) -> str:
    """The local path of a value of `_MODELS`, downloaded if needed (see clip/download.py).

    Raises:
        RuntimeError: if the weights could not be loaded, or do not match their SHA-256.
        FileNotFoundError: if the file of an embedded backbone is missing.
    """
    if "://" in url:
        return str(fetch(url, root, hint=_hub_hint(url)))
    if not Path(url).is_file():
        raise FileNotFoundError(
            f"The embedded backbone file {url} is missing. It belongs to the package: restore it "
            "with git checkout -- clip/weights, or install the package again."
        )
    return url


def _hub_hint(url: str) -> str:
    """How to get the same weights from the Hugging Face hub; empty for other files."""
    for _, file, hub in _OPENAI_FILES.values():
        if url.endswith(f"/{file}"):
            arch = file.removesuffix("px.pt").removesuffix(".pt") + "-quickgelu"
            return (
                f"\n  The same weights on the Hugging Face hub: {hub}; use the backbone name "
                f'"{OPEN_CLIP}{arch}/openai".'
            )
    return ""


def weights_path(name: str, download_root: str | os.PathLike | None = None) -> Path | None:
    """Where `load` expects the weights file of `name`, whether or not it is there.

    None for names of open_clip, whose files the open_clip_torch package manages.

    Raises:
        RuntimeError: if the name is unknown.
    """
    name, _ = split_activation(name)
    if name.startswith(OPEN_CLIP_NAMES):
        return None
    if name not in _MODELS:
        return Path(_known_path(name))
    location = _MODELS[name]
    if "://" in location:
        return weights_dir(download_root) / location.split("/")[-1]
    return Path(location)


def fetch_weights(name: str) -> None:
    """Have the weights of a backbone on this machine, whole: what is missing is downloaded.

    Raises:
        RuntimeError: if the name is unknown, or its weights could not be loaded.
        ValueError: if open_clip does not know the name.
    """
    if name.startswith(OPEN_CLIP_NAMES):  # that package alone knows them, and fetches as it loads
        load_backbone(name)
    elif weights_path(name) and name in _MODELS:
        _download(_MODELS[name])


def _known_path(name: str) -> str:
    """`name` if it is a file or a folder.

    Raises:
        RuntimeError: if it is neither, nor, as the caller found, a known name.
    """
    if os.path.isfile(name) or os.path.isdir(name):
        return name
    if os.path.lexists(name):
        what = (
            "a link that leads nowhere" if os.path.islink(name) else "neither a file nor a folder"
        )
        raise RuntimeError(f"The weights file {name} is {what}. Give a file or a folder.")
    close = difflib.get_close_matches(name.lower(), [known.lower() for known in _MODELS], n=1)
    guess = [known for known in _MODELS if known.lower() in close]
    hint = f' Did you mean "{guess[0]}"?' if guess else ""
    if not hint and name.count("/") == 1 and not name.endswith((".pt", ".pth", ".bin")):
        hint = (
            f" If it is a repository of the Hugging Face hub: hf-hub:{name} where it holds an "
            f"open_clip model; otherwise hf download {name} --local-dir <folder>, then give that "
            "folder."
        )
    raise RuntimeError(
        f'Model "{name}" not found.{hint} Available models: {", ".join(_MODELS)}; also '
        f"{OPEN_CLIP}<architecture>/<pretrained>, hf-hub:<organisation>/<repository>, or the path "
        "of a weights file or folder."
    )


def load_backbone(
    name: str,
    *,
    precision: str = "fp32",
    device: str | torch.device = "cpu",
    download_root: str | os.PathLike | None = None,
    activation: str = "",
) -> CLIP:
    """Load a frozen CLIP in eval mode.

    Args:
        name: a name of `available_models()`; `open_clip:<architecture>/<tag or file>`;
            `hf-hub:<organisation>/<repository>` or `local-dir:<folder>` of an open_clip model; or
            the path of a weights file or of a Hugging Face or open_clip folder. OpenAI's layout
            and that of Hugging Face transformers are read.
        precision: "fp32" or "amp" (float32 weights), or "fp16" (OpenAI's mixed storage).
        device: where the model goes.
        download_root: folder of downloaded weights, see clip/download.py.
        activation: "quick_gelu" or "gelu", for a file that does not tell (clip/activation.py);
            a name may say it, too: `<path>@gelu`.

    Returns:
        The model; no parameter requires a gradient; `backbone_name` is `name`.

    Raises:
        RuntimeError: if the name is unknown, or its weights could not be loaded.
        ValueError: if the weights are not a CLIP, or do not fit `precision` or `activation`.
    """
    if precision not in ("fp32", "amp", "fp16"):
        raise ValueError(f'precision is "{precision}"; expected "fp32", "amp" or "fp16".')
    storage = "fp16" if precision == "fp16" else "fp32"
    model: TwoTowers
    full_name = name
    name, said = split_activation(name)
    if said and activation not in ("", said):
        raise ValueError(f"activation is {activation}, but the name {full_name} says {said}.")
    activation = activation or said
    if name in _MODELS:
        _refuse_activation(name, activation)
        path = _download(_MODELS[name], download_root)
        model = build_clip(read_checkpoint(path), precision=storage)
    elif name.startswith(OPEN_CLIP_NAMES):
        model = load_open_clip(
            name, precision=storage, cache_dir=download_root, activation=activation
        )
    elif is_open_clip_folder(place := Path(name)) or (
        is_open_clip_folder(place.parent) and place.is_file()
    ):
        folder, file = (place, None) if place.is_dir() else (place.parent, place)
        model = load_open_clip(
            f"local-dir:{folder}", precision=storage, activation=activation, file=file
        )
    else:
        model = load_file(Path(_known_path(name)), precision=storage, activation=activation)
    model.backbone_name = full_name
    return cast(CLIP, model.requires_grad_(False).to(device))


def _refuse_activation(name: str, activation: str) -> None:
    if check_activation(activation) == "gelu":
        raise ValueError(
            f"--activation gelu: {name} was trained with quick_gelu and is read with it. Leave the "
            "flag out."
        )


def load(
    name: str,
    device: str | torch.device | None = None,
    jit: bool = False,
    download_root: str | os.PathLike | None = None,
) -> tuple[CLIP, Callable[[Image.Image], Tensor]]:
    """Load a CLIP model and its evaluation transform.

    Args:
        name: see `load_backbone`.
        device: default: a GPU if there is one. On a CPU the model is float32, else float16.
        jit: must be False; there is one model, and it is a plain module.
        download_root: folder of downloaded weights, see clip/download.py.

    Returns:
        The model in eval mode (parameters trainable, as OpenAI's), and a transform PIL image ->
        (3, H, H) tensor.
    """
    if jit:
        raise ValueError("jit=True is not supported: the model is a plain module. Use jit=False.")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    precision = "fp32" if device.type == "cpu" else "fp16"
    model = load_backbone(name, precision=precision, device=device, download_root=download_root)
    transform = _transform(
        model.visual.input_resolution,
        model.image_mean,
        model.image_std,
        interpolation=model.image_interpolation,
        resize=model.image_resize,
    )
    return model.requires_grad_(True), transform


def _to_rgb(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def _transform(
    n_px: int,
    mean: Sequence[float] = IMAGE_MEAN,
    std: Sequence[float] = IMAGE_STD,
    *,
    interpolation: str = "bicubic",
    resize: str = "shortest",
) -> Compose:
    """Resize the shorter side and crop the centre, or squash; to RGB, to [0, 1], normalise."""
    size = n_px if resize == "shortest" else (n_px, n_px)
    return Compose(
        [
            Resize(size, interpolation=InterpolationMode(interpolation)),
            CenterCrop(n_px),
            _to_rgb,
            ToTensor(),
            Normalize(mean, std),
        ]
    )


def __getattr__(name: str) -> Any:
    if name == "_tokenizer":  # read the merges file only when somebody asks
        return default_tokenizer()
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message, name=name, obj=sys.modules[__name__])
