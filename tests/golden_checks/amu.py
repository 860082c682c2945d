"""AMU: uncertainty factors; initial weight, forward, losses, training, evaluation."""

import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from dassl.config import get_cfg_default
from dassl.optim import build_lr_scheduler, build_optimizer
from golden_checks import aux_resnet50
from golden_checks.common import Case
from trainers.amu import AuxiliaryBias, average_views, initial_weight
from trainers.common.auxiliary import load_auxiliary
from trainers.common.encoder import ClipEncoder
from trainers.common.prompts import zero_shot_classifier
from trainers.common.uncertainty import uncertainty_factor


def check(case: Case) -> None:
    if "powers" in case.config:
        check_factors(case)
    else:
        check_training(case)


def check_factors(case: Case) -> None:
    logits = case.tensor("clip_logits")
    for kind in case.config["types"]:
        factors = [uncertainty_factor(logits, kind, p).flatten() for p in case.config["powers"]]
        case.compare(f"factor_{kind.replace('-', '_')}", torch.stack(factors))


def _raw_features(case: Case) -> SimpleNamespace:
    """Classifier (C, D_c); raw features of shots (E, N, D_a), train and test (n, D_c + D_a)."""
    if "shot_aux_raw" in case.arrays:
        both = {
            split: torch.cat([case.tensor(f"{split}_{net}_raw") for net in ("clip", "aux")], dim=1)
            for split in ("train", "test")
        }
        classifier = case.tensor("clip_weights").t()
        return SimpleNamespace(classifier=classifier, shots=case.tensor("shot_aux_raw"), **both)
    clip = case.load_clip()
    encoders = ClipEncoder(clip), _auxiliary(case.config["aux_seed"])
    both = {
        split: torch.cat([encode(case.tensor(f"{split}_images")) for encode in encoders], dim=1)
        for split in ("train", "test")
    }
    shots = torch.stack([encoders[1](images) for images in case.tensor("shot_images")])
    classifier = zero_shot_classifier(clip, case.spec["classnames"], case.templates)
    case.compare("clip_weights", classifier.t())
    dim = classifier.shape[1]
    case.compare("test_clip_raw", both["test"][:, :dim])
    case.compare("test_aux_raw", both["test"][:, dim:])
    return SimpleNamespace(classifier=classifier, shots=shots, **both)


def _auxiliary(seed: int):
    """The random ResNet-50, through a file in the layout of MoCo v3."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "moco.pth.tar"
        torch.save(aux_resnet50.moco_checkpoint(seed), path)
        return load_auxiliary("moco_v3_rn50", str(path))


def _optimisation(method: AuxiliaryBias, config: dict):
    cfg = get_cfg_default().OPTIM
    cfg.NAME, cfg.LR, cfg.EPS = config["optimizer"].lower(), config["lr"], config["eps"]
    cfg.WEIGHT_DECAY, cfg.LR_SCHEDULER = config["weight_decay"], "cosine"
    cfg.ADAM_BETA1, cfg.ADAM_BETA2 = config["betas"]
    cfg.MAX_EPOCH, cfg.STEP_PER = config["epochs"], "batch"
    groups = [{"params": list(method.parameters()), "fused": True}]  # as the trainer's
    optimizer = build_optimizer(method, cfg, groups)
    return optimizer, build_lr_scheduler(optimizer, cfg, config["steps_per_epoch"])


def check_training(case: Case) -> None:
    config, raw = case.config, _raw_features(case)
    method = AuxiliaryBias(
        raw.classifier,
        raw.shots.shape[-1],
        alpha=config["alpha"],
        lambda_merge=config["lambda_merge"],
        uncent_type=config["uncent_type"],
        uncent_power=config["uncent_power"],
        clip_scale=config["logit_scale"],
    )
    features = average_views(raw.shots)
    case.compare("shot_features", features)
    weight = initial_weight(features, case.tensor("shot_labels"), len(raw.classifier))
    case.compare("W0", weight)
    method.fc.weight.data.copy_(weight)
    size = config["batch_size"]
    batches = list(zip(raw.train.split(size), case.tensor("train_labels").split(size)))
    _compare_first(case, method, *batches[0])
    _train(case, method, batches, raw.test)


def _compare_first(case: Case, method: AuxiliaryBias, raw: Tensor, labels: Tensor) -> None:
    features = method.image_features(raw)
    clip_logits, factor, aux = method.branches(None, features, method.clip_classifier)
    case.compare("first_clip_logits", clip_logits)
    case.compare("first_factor", factor)
    case.compare("first_aux_logits", aux)
    case.compare("first_logits", method.logits(None, features, method.text_features(None)))
    losses = method.losses(None, raw, labels)
    case.compare("first_losses", _three(losses))
    losses["loss"].backward()
    case.compare("first_grad", method.fc.weight.grad)


def _three(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack([losses[name].detach() for name in ("loss", "loss_merge", "loss_aux")])


def _train(case: Case, method: AuxiliaryBias, batches: list, test: Tensor) -> None:
    optimizer, scheduler = _optimisation(method, case.config)
    labels, per_epoch = case.tensor("test_labels"), case.config["steps_per_epoch"]
    losses, rates, accuracies, alone = [], [], [], []
    for step in range(case.config["epochs"] * per_epoch):
        values = method.losses(None, *batches[step])
        optimizer.zero_grad()
        values["loss"].backward()
        rates.append(optimizer.param_groups[0]["lr"])
        losses.append(_three(values).double())
        optimizer.step()
        scheduler.step()
        if step == 2:
            case.compare("W_after3", method.fc.weight)
        if (step + 1) % per_epoch == 0:
            scores, preferred = method.fuse(method.constants(None, test))
            accuracies.append(_accuracy(scores.argmax(dim=-1), labels))
            alone.append(_accuracy(preferred, labels))
    case.compare("losses", torch.stack(losses))
    case.compare("lrs", rates)
    case.compare("W_final", method.fc.weight)
    case.compare("test_acc", accuracies)
    case.compare("test_acc_aux", alone)
    features = method.image_features(test)
    case.compare("test_logits", method.logits(None, features, method.text_features(None)))


def _accuracy(predicted: Tensor, labels: Tensor) -> float:
    return round(100 * (predicted == labels).double().mean().item(), 2)
