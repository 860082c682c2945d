"""MIRO: mutual information regularisation with oracle.

Cha et al.: "Domain Generalization by Mutual-Information Regularization with Pre-trained Models",
ECCV 2022, arXiv 2203.10789. Parity is tested in tests/golden/vl2v_adip (``miro_*``). License of the
official code: MIT.
"""

import copy
import math
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip.blocks import BlockView, TowerHook
from dassl.config import Settings, at_least, setting
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.settings.shared_conditions import no_templates
from dassl.engine.steps.settings import ONE_STAGE
from dassl.engine.steps.trainer import StepTrainer
from dassl.modeling.heads import Objective, Student, StudentClassifier


@dataclass(frozen=True)
class MIROSettings(Settings, section="TRAINER.MIRO"):
    """The regularisation and its variances."""

    ld: float = setting(0.1, "weight of the regularisation", at_least(0))
    lr_mult: float = setting(
        10.0, "learning rate of the variances, in units of OPTIM.LR", at_least(0)
    )
    var_init: float = setting(0.1, "initial variance of every channel, above VAR_EPS")
    var_eps: float = setting(1e-5, "smallest variance")

    def check(self) -> None:
        if not 0 <= self.var_eps < self.var_init:
            raise ValueError(
                f"TRAINER.MIRO.VAR_INIT is {self.var_init} and VAR_EPS {self.var_eps}; expected "
                "0 <= VAR_EPS < VAR_INIT."
            )


class MIROObjective(Objective, nn.Module):
    """CE + ld sum_l mean((f_l - f0_l)^2 / var_l + log var_l) / 2, var = softplus(b) + eps.

    f_l, f0_l: tapped activations of the student and of its frozen pre-trained copy. Learned beside
    the network: one b per channel and tap, initially log(exp(var_init - eps) - 1).

    Args:
        oracle: the pre-trained student; frozen here.
        widths: channels of each tap.
    """

    def __init__(self, oracle: Student, widths: list[int], settings: MIROSettings) -> None:
        super().__init__()
        self.oracle = oracle.requires_grad_(False).eval()
        self.weight, self.eps = settings.ld, settings.var_eps
        start = math.log(math.expm1(settings.var_init - self.eps))
        self.b = nn.ParameterList(nn.Parameter(torch.full((w,), start)) for w in widths)

    def train(self, mode: bool = True) -> "MIROObjective":
        super().train(mode)
        self.oracle.eval()
        return self

    def outputs(self, network: StudentClassifier, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C) logits and the regularisation."""
        with torch.no_grad():
            targets = tap_outputs(self.oracle, images)[1]
        features, taps = tap_outputs(network.student, images)
        penalties = map(self.tap_loss, taps, targets, self.b)
        return network.classify(features), reduce(torch.add, penalties)

    def losses(self, outputs: tuple[Tensor, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """{"loss", "loss_ce", "loss_reg"}."""
        logits, reg = outputs
        label = F.cross_entropy(logits, labels)
        return {
            "loss": label + self.weight * reg,  # CE + ld sum_l ...
            "loss_ce": label.detach(),
            "loss_reg": reg.detach(),
        }

    def tap_loss(self, tap: Tensor, target: Tensor, b: Tensor) -> Tensor:
        """Half the Gaussian negative log-likelihood of a tap, averaged over all its elements.

        Args:
            tap, target: (B, C, H, W), or tokens with channels last.
            b: (C,).
        """
        variance = F.softplus(b) + self.eps
        if tap.dim() == 4:
            variance = variance[:, None, None]
        # mean((f - f0)^2 / var + log var) / 2
        return ((tap - target).square() / variance + variance.log()).mean() / 2


def tap_widths(student: Student) -> list[int]:
    """Channels of every tap."""
    size = student.input_size
    probe = next(student.parameters()).new_zeros(1, 3, size, size)
    with torch.no_grad():
        taps = tap_outputs(student, probe)[1]
    return [tap.shape[1] if tap.dim() == 4 else tap.shape[-1] for tap in taps]


def _tap_modules(network: nn.Module) -> list[str]:
    """Names of the modules whose outputs are tapped (specification of MIRO)."""
    names = {name for name, _ in network.named_modules()}
    stages = ["layer1", "layer2", "layer3", "layer4"]
    if hasattr(network, "dist_token") or not names:
        return []
    if names.issuperset(stages):
        stem = "avgpool" if hasattr(network, "attnpool") else "maxpool"
        return [stem, *stages] if stem in names else stages
    if hasattr(network, "blocks"):
        return [
            f"blocks.{i}"
            for i in _tap_depths(len(list(network.get_submodule("blocks").children())))
        ]
    return []


def _tap_depths(depth: int) -> list[int]:
    """Blocks 2, 5, 8, 11 of twelve; the same fractions of another depth."""
    return sorted({max(depth * k // 4 - 1, 0) for k in range(1, 5)})


class _TokenTaps(TowerHook):
    """Keeps what some blocks of a CLIP tower return, with all their tokens."""

    all_rows = True

    def __init__(self, depths: list[int]) -> None:
        self.depths = depths
        self.outputs: list[Tensor] = []

    def block(self, i: int, block: BlockView, x: Tensor) -> Tensor:
        x = block(x)
        if i in self.depths:
            self.outputs.append(x)
        return x


def tap_outputs(student: Student, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Features (B, n) and the outputs of the tapped modules, in order of depth.

    Maps are (B, C, H, W), tokens (B, L, W) or (L, B, W): channels in dimension 1 or last.

    Raises:
        ValueError: if the specification does not say where this architecture is tapped.
    """
    network: Any = student.network
    outputs: list[Tensor] = []

    def keep(module: nn.Module, args: tuple, output: Tensor) -> None:
        outputs.append(output)

    is_clip_vit = hasattr(network, "class_embedding")
    modules = ["conv1"] if is_clip_vit else _tap_modules(network)
    if not modules:
        raise ValueError(
            f"{student.name or type(network).__name__} has no known taps. MIRO works with ResNets, "
            "timm ViTs (not the distilled DeiTs) and CLIP image towers."
        )
    handles = [network.get_submodule(module).register_forward_hook(keep) for module in modules]
    try:
        if is_clip_vit:
            hook = _TokenTaps(_tap_depths(network.transformer.layers))
            return network(images, hook=hook), outputs + hook.outputs
        return network(images), outputs
    finally:
        for handle in handles:
            handle.remove()


@TRAINER_REGISTRY.register()
class MIRO(StepTrainer):
    """All of the student and a linear head learn; b learns at LR * LR_MULT."""

    objective: MIROObjective
    declares = (MIROSettings, *ONE_STAGE)
    own_conditions = (no_templates("no text enters"),)

    def build_objective(self) -> MIROObjective:
        oracle = copy.deepcopy(self.network.student)
        return MIROObjective(oracle, tap_widths(oracle), MIROSettings.of(self.cfg))

    def param_groups(self) -> list[dict]:
        lr = self.cfg.OPTIM.LR * MIROSettings.of(self.cfg).lr_mult
        return [*super().param_groups(), {"params": list(self.objective.b), "lr": lr}]
