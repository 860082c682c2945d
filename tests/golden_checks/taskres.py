"""TaskRes: base classifiers, residual variants, projection tuning, ImageNet variants."""

import torch
from torch import Tensor

from golden_checks.common import Case
from golden_checks.steps import train
from trainers.taskres import (
    ProjectionTuning,
    TaskResidual,
    enhanced_base,
    pre_projection_features,
    regular_base,
)


def check(case: Case) -> None:
    if "ckpt_base_text_features" in case.arrays:
        check_transfer(case)
    elif "pre_projection" in case.arrays:
        check_projection(case)
    else:
        check_residual(case)


def _train_and_compare(case: Case, clip, method, watched: dict[str, Tensor]) -> None:
    labels = case.tensor("labels")
    with torch.no_grad():
        raw = method.raw_image_features(clip, case.tensor("images"))
    case.compare("image_features", raw)
    size = case.config.get("batch_size", len(labels))
    batches = list(zip(raw.split(size), labels.split(size)))
    batches = batches[: case.config.get("batches_per_epoch")]  # a smaller last one is dropped

    def logits(features: Tensor) -> Tensor:
        return method.logits(clip, method.image_features(features), method.text_features(clip))

    def loss_of(step: int) -> Tensor:
        return method.losses(clip, *batches[step % len(batches)])["loss"]

    case.compare("logits_init", logits(batches[0][0]))
    loss = loss_of(0)
    case.compare("loss_init", loss)
    loss.backward()
    for name, parameter in watched.items():
        case.compare(f"grad_{name}", parameter.grad)
    losses, rates = train(method, case.config, loss_of)
    case.compare("losses", losses)
    case.compare("lrs", rates)
    for name, parameter in watched.items():
        case.compare(f"final_{name}", parameter)
    case.compare("logits_final", logits(raw))


def check_residual(case: Case) -> None:
    config, clip, names = case.config, case.load_clip(), case.spec["classnames"]
    if "enhanced_weight" in case.arrays:
        weight = case.tensor("enhanced_weight")
        base = enhanced_base(clip, names, case.templates, weight, replace_underscores=False)
    else:
        base = regular_base(clip, names, case.templates, replace_underscores=False)
    case.compare("base_text_features", base)
    learns_alpha = config["variant"] == "learnable" or "final_alpha" in case.arrays
    method = TaskResidual(
        base,
        alpha=config["alpha"],
        variant=config["variant"].replace("learnable", "text"),
        learn_alpha=learns_alpha,
    )
    watched = {}
    if method.text_feature_residuals is not None:
        watched["residual"] = method.text_feature_residuals
    if method.image_feature_residual is not None:
        watched["image_residual"] = method.image_feature_residual
    for name, parameter in watched.items():
        if f"init_{name}" in case.arrays:
            parameter.data = case.tensor(f"init_{name}")
    if learns_alpha:
        watched["alpha"] = method.alpha
    _train_and_compare(case, clip, method, watched)


def check_projection(case: Case) -> None:
    clip = case.load_clip()
    hidden = pre_projection_features(
        clip, case.spec["classnames"], case.templates, replace_underscores=False
    )
    case.compare("pre_projection", hidden)
    method = ProjectionTuning(hidden, clip.text_projection)
    case.compare("weight_init", method.weight)
    _train_and_compare(case, clip, method, {"weight": method.weight})
    case.compare("base_text_features_final", method.base_text_features())


def check_transfer(case: Case) -> None:
    from datasets.imagenet_classes import imagenet_wnids, variant_wnids

    clip = case.load_clip()
    source, target = imagenet_wnids(), variant_wnids(case.config["target_dataset"])
    case.compare("class_index", torch.tensor([source.index(wnid) for wnid in target]))
    checkpoint = {
        "base_text_features": case.tensor("ckpt_base_text_features").float(),
        "text_feature_residuals": case.tensor("ckpt_text_feature_residuals").float(),
    }
    width = checkpoint["base_text_features"].shape[1]
    method = TaskResidual(torch.zeros(len(target), width), alpha=case.config["alpha"])
    method.load_state_dict(method.import_state(checkpoint, source, target))
    rows = len(case.arrays["loaded_base_rows"])
    case.compare("loaded_base_rows", method.base_text_features[:rows])
    case.compare("loaded_residual_rows", method.text_feature_residuals[:rows])
    with torch.no_grad():
        logits = method(clip, case.tensor("images"))
    case.compare("logits", logits)
    case.compare("pred", logits.argmax(dim=-1))
    correct = logits.argmax(dim=-1) == case.tensor("labels")
    case.compare("accuracy", 100 * correct.double().mean())
