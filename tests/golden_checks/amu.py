"""AMU: uncertainty factors; initial weight, forward, losses, training, evaluation.

All of it in the registered trainer, over images or over the features of both networks.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from golden_checks import aux_resnet50
from golden_checks.common import Case
from golden_checks.runs import metrics_lines
from golden_checks.settings import own_templates
from golden_checks.shipped import Shipped, batch, in_epochs
from golden_checks.stored import StoredClip, StoredEncoder
from trainers.amu import AuxiliaryBias, average_views


def check(case: Case) -> None:
    if "powers" in case.config:
        check_factors(case)
        return
    with tempfile.TemporaryDirectory() as folder:
        check_training(case, Path(folder))


def check_factors(case: Case) -> None:
    """The factor of a trainer with each setting."""
    logits = case.tensor("clip_logits")
    clip, auxiliary = StoredClip(torch.eye(logits.shape[1])), StoredEncoder(2)
    row = torch.zeros(1, logits.shape[1] + auxiliary.dim)
    for kind in case.config["types"]:
        factors = []
        for power in case.config["powers"]:
            settings = {"UNCENT_TYPE": kind, "UNCENT_POWER": power}
            parts = {"clip": clip, "auxiliary": auxiliary}
            run = _shipped(case, [batch(row)], row, None, parts, settings)
            factors.append(run.method.factor(logits).flatten())
        case.compare(f"factor_{kind.replace('-', '_')}", torch.stack(factors))


def _shipped(
    case: Case,
    batches: Any,
    test: Tensor,
    labels: Tensor | None,
    parts: dict[str, Any],
    settings: dict[str, Any],
) -> Shipped:
    """The trainer; a stand-in CLIP brings its own class names and templates."""
    clip = parts.get("clip")
    classnames = clip.classnames if clip else case.spec["classnames"]
    if clip:
        settings = settings | {"DATASET.TEMPLATES": clip.templates}
    else:
        settings = settings | own_templates(case, case.templates)
    return Shipped(
        case,
        "AMU",
        batches,
        test=test,
        labels=labels,
        classnames=classnames,
        official=lambda name: "W",
        parts=parts,
        **settings,
    )


def _both(case: Case, split: str) -> Tensor:
    """8-bit images, or the raw features of both networks side by side."""
    if f"{split}_images" in case.arrays:
        return case.tensor(f"{split}_images")
    return torch.cat([case.tensor(f"{split}_{net}_raw") for net in ("clip", "aux")], dim=1)


def _shots(case: Case) -> dict[str, Tensor]:
    """The shots with their passes as views (N, E, ...); CLIP's features of them play no part."""
    if "shot_images" in case.arrays:
        views = case.tensor("shot_images").transpose(0, 1)
    else:
        auxiliary = case.tensor("shot_aux_raw").transpose(0, 1)
        nothing = auxiliary.new_zeros(*auxiliary.shape[:2], len(case.arrays["clip_weights"]))
        views = torch.cat([nothing, auxiliary], dim=-1)
    return {"img": views[:, 0], "views": views, "label": case.tensor("shot_labels")}


def check_training(case: Case, folder: Path) -> None:
    config, parts = case.config, {"shots": [_shots(case)]}
    # the official loop tests after every epoch
    settings = {"TEST.SELECT_ON": "test", "CLIP_SCALE": config.get("logit_scale")}
    if "scheduler" in config:  # "cosine, stepped per iteration"
        settings["OPTIM.LR_SCHEDULER"] = config["scheduler"].split(",")[0]
        settings["OPTIM.STEP_PER"] = "epoch" if "per epoch" in config["scheduler"] else "batch"
    if case.spec["backbone"]:
        settings |= {"AUX": "moco_v3_rn50", "AUX_WEIGHTS": str(folder / "moco.pth.tar")}
        torch.save(aux_resnet50.moco_checkpoint(config["aux_seed"]), settings["AUX_WEIGHTS"])
    else:
        parts["clip"] = StoredClip(case.tensor("clip_weights").t())
        parts["auxiliary"] = StoredEncoder(case.arrays["shot_aux_raw"].shape[-1])
    images, labels = _both(case, "train"), case.tensor("train_labels")
    size = config["batch_size"]
    batches = [batch(*pair) for pair in zip(images.split(size), labels.split(size))]
    run = _shipped(
        case,
        in_epochs(batches, config["steps_per_epoch"]),
        _both(case, "test"),
        case.tensor("test_labels"),
        parts,
        settings,
    )
    _compare_features(case, run)
    _compare_first(case, run)
    run.train(config["epochs"])
    _compare_steps(case, run)
    _compare_end(case, run)


def _compare_features(case: Case, run: Shipped) -> None:
    trainer, dim = run.trainer, run.method.clip_classifier.shape[1]
    case.compare("clip_weights", run.method.clip_classifier.t())
    test = trainer.bank.test(trainer.dm.dataset.test).all(0)
    case.compare("test_clip_raw", test[:, :dim])
    case.compare("test_aux_raw", test[:, dim:])
    passes = trainer.bank.train(trainer.shots, views=trainer.settings.augment_epoch)
    case.compare("shot_features", average_views(passes.all()[..., dim:]))
    case.compare("W0", trainer.shot_weight())


def _compare_first(case: Case, run: Shipped) -> None:
    """What the initial weight makes of the first batch."""
    method: AuxiliaryBias = run.method
    method.fc.weight.data.copy_(run.trainer.shot_weight())
    features = method.image_features(run.trainer.train_loader_x.batches[0]["features"])
    clip_logits, factor, aux = method.branches(run.clip, features, method.clip_classifier)
    case.compare("first_clip_logits", clip_logits)
    case.compare("first_factor", factor)
    case.compare("first_aux_logits", aux)
    text_features = method.text_features(run.clip)
    case.compare("first_logits", method.logits(run.clip, features, text_features))


def _compare_steps(case: Case, run: Shipped) -> None:
    losses = [[step[name] for name in ("loss", "loss_merge", "loss_aux")] for step in run.losses]
    case.compare("first_losses", losses[0])
    case.compare("losses", losses)
    case.compare("lrs", [groups[0] for groups in run.rates])
    case.compare("first_grad", run.gradients[0]["W"])
    for step, values in enumerate(run.parameters, start=1):
        case.compare(f"W_after{step}", values["W"])


def _compare_end(case: Case, run: Shipped) -> None:
    """The tests after every epoch, then the last epoch's checkpoint."""
    folder, epochs = run.trainer.output_dir, case.config["epochs"]
    for name, key in (("test_acc", "accuracy"), ("test_acc_aux", "accuracy_aux")):
        lines = metrics_lines(folder, key)[:epochs]
        case.compare(name, [round(line[key], 2) for line in lines])
    run.trainer.load_model(folder, epoch=epochs)
    case.compare("W_final", run.method.fc.weight)
    raw = run.trainer.bank.test(run.trainer.dm.dataset.test).all(0)
    rows = run.method.image_features(raw)
    case.compare("test_logits", run.method.logits(run.clip, rows, run.method.clip_classifier))
    # an evaluation leaves out what all classes of an image share
    centred = [_centred(scores) for scores in (run.test(), case.tensor("test_logits"))]
    case.compare("test_logits", *centred)


def _centred(scores: Tensor) -> Tensor:
    return scores - scores.mean(dim=1, keepdim=True)
