"""The stand-in students of the VL2V-ADiP cases, built from the arrays and the text of a case."""

import copy
import math
import re
from collections import OrderedDict
from functools import partial

import numpy as np
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from dassl.modeling.heads import Student
from golden_checks.common import Case


def _number(pattern: str, text: str, default: float) -> float:
    found = re.search(pattern, text)
    return float(found.group(1)) if found else default


class ConvStudent(nn.Module):
    """The stand-in for ResNet-50: the same module names, one convolution per layer."""

    def __init__(self, arrays: dict[str, np.ndarray], prefix: str, arch: str) -> None:
        super().__init__()
        strides = {int(k): int(s) for k, s in re.findall(r"layer(\d)\([^)]*,s(\d)\)", arch)}
        norm = partial(nn.BatchNorm2d, eps=_number(r"eps ([\d.e-]+\d)", arch, 1e-5))
        width, into, side, _ = arrays[f"{prefix}conv1.weight"].shape
        stride = int(_number(r"conv1\([^)]*stride(\d)", arch, 2))
        padding = int(_number(r"conv1\([^)]*pad(\d)", arch, 1))
        self.conv1 = nn.Conv2d(into, width, side, stride=stride, padding=padding, bias=False)
        self.bn1 = norm(width)
        self.relu = nn.ReLU()
        pool = re.search(r"maxpool\((\d),(\d),(\d)\)", arch)
        self.maxpool = nn.MaxPool2d(*map(int, pool.groups() if pool else (3, 2, 1)))
        for k in sorted(strides):
            out, into, side, _ = arrays[f"{prefix}layer{k}.conv.weight"].shape
            conv = nn.Conv2d(into, out, side, stride=strides[k], padding=side // 2, bias=False)
            parts = OrderedDict(conv=conv, bn=norm(out), relu=nn.ReLU())
            setattr(self, f"layer{k}", nn.Sequential(parts))
        self.layers, self.width = sorted(strides), out

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for k in self.layers:
            x = getattr(self, f"layer{k}")(x)
        return x.mean(dim=(2, 3))


def _transformer(arrays: dict[str, np.ndarray], prefix: str, arch: str) -> nn.Module:
    names = [name for name in arrays if name.startswith(prefix)]
    shapes = {name.removeprefix(prefix): arrays[name].shape for name in names}
    width, _, patch, _ = shapes["patch_embed.proj.weight"]
    extra = 2 if "dist_token" in shapes else 1
    build = VisionTransformerDistilled if extra == 2 else VisionTransformer
    return build(
        img_size=math.isqrt(shapes["pos_embed"][1] - extra) * patch,
        patch_size=patch,
        embed_dim=width,
        depth=len({key.split(".")[1] for key in shapes if key.startswith("blocks.")}),
        num_heads=int(re.search(r"num_heads=(\d+)", arch).group(1)),
        mlp_ratio=shapes["blocks.0.mlp.fc1.weight"][0] / width,
        norm_layer=partial(nn.LayerNorm, eps=_number(r"eps ([\d.e-]+\d)", arch, 1e-6)),
        num_classes=0,
        global_pool="token",
    )


def stored_student(case: Case, prefix: str = "student.") -> Student:
    """The student whose weights a case holds."""
    arch = case.config["student_arch"]
    if f"{prefix}conv1.weight" in case.arrays:
        network = ConvStudent(case.arrays, prefix, arch)
        width = network.width
    else:
        network = _transformer(case.arrays, prefix, arch)
        width = network.embed_dim
    images = next(name for name in case.arrays if name.startswith("x"))
    load(network, case, prefix)
    return Student(network, width, name="golden", input_size=case.arrays[images].shape[-1])


def clip_student(tower: nn.Module) -> Student:
    """A trainable copy of a CLIP image tower."""
    tower = copy.deepcopy(tower).requires_grad_(True)
    return Student(tower, tower.output_dim, name="clip:golden", input_size=tower.input_resolution)


def constant_student(width: int) -> Student:
    """A student without weights: an image is its first ``width`` numbers."""
    return Student(nn.Flatten(), width, name="golden", input_size=1)


def load(module: nn.Module, case: Case, prefix: str) -> None:
    """Fill a module from the arrays that begin with ``prefix``; all that it has must be there."""
    names = [name for name in case.arrays if name.startswith(prefix)]
    state = {name[len(prefix) :]: case.tensor(name) for name in names}
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing), missing
