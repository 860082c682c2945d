"""Small ResNets of the toy world; weights are in ``datasets/toy_world/weights/toy_<name>.pt``."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dassl.utils import load_checkpoint

WEIGHTS = Path(__file__).resolve().parent / "weights"
INPUT_SIZE = 32  # pixels
CHANNELS = (24, 48, 96, 128)
STRIDES = (1, 2, 2, 2)


class BasicBlock(nn.Module):
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)), 3 x 3 convolutions."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(into, out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or into != out:
            shortcut = nn.Conv2d(into, out, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class ToyNet(nn.Module):
    """3 x 3 stem, max-pool, four basic blocks, global mean: (B, 3, H, W) -> (B, 128).

    Module names as in torchvision's ResNets, so that taps and importers find them.
    """

    input_size = INPUT_SIZE
    width = CHANNELS[-1]

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, CHANNELS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(CHANNELS[0])
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(2)
        shapes = zip((CHANNELS[0], *CHANNELS), CHANNELS, STRIDES)
        self.layer1, self.layer2, self.layer3, self.layer4 = (BasicBlock(*s) for s in shapes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean(dim=(2, 3))


def toy_weights(name: str) -> Path:
    """Path of the embedded weights of a toy network."""
    return WEIGHTS / f"toy_{name}.pt"


def load_toy_net(name: str, *, pretrained: bool = True, weights: str = "") -> ToyNet:
    """A toy network by name.

    Args:
        name: as in ``toy:<name>``.
        pretrained: False gives random weights.
        weights: a state dict of one's own.

    Raises:
        FileNotFoundError: if there are no such weights.
    """
    known = sorted(path.stem.removeprefix("toy_") for path in WEIGHTS.glob("toy_*.pt"))
    net = ToyNet()
    path = Path(weights) if weights else toy_weights(name)
    if not weights and not pretrained:
        return net
    if not path.is_file():
        raise FileNotFoundError(
            f"There are no weights of the toy network {name} at {path}. Known: "
            f"{', '.join(known) or 'none'}. Create them with python tools/toy_world/pretrain.py, "
            "or set MODEL.BACKBONE.PRETRAINED False for random initialisation."
        )
    state = load_checkpoint(str(path))
    state = state.get("state_dict", state)
    try:
        net.load_state_dict({key: _whole(value) for key, value in state.items()})
    except RuntimeError as error:
        why = " ".join(str(error).split())[:300]
        raise ValueError(f"{path} holds no weights of toy:{name}: {why}") from error
    return net


def _whole(value: Tensor) -> Tensor:
    return value.float() if value.dtype == torch.float16 else value
