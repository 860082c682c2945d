"""TaskRes: base classifiers, residual variants, projection tuning, ImageNet variants."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from dassl.utils import save_checkpoint
from datasets.imagenet_classes import imagenet_wnids, variant_wnids
from golden_checks import steps
from golden_checks.common import Case
from golden_checks.settings import own_templates
from golden_checks.shipped import Shipped, batch

NAMES = {
    "text_feature_residuals": "residual",
    "image_feature_residual": "image_residual",
    "alpha": "alpha",
    "weight": "weight",
}


def check(case: Case) -> None:
    if "ckpt_base_text_features" in case.arrays:
        check_transfer(case)
    elif "pre_projection" in case.arrays:
        check_projection(case)
    else:
        check_residual(case)


def shipped(case: Case, trainer: str, **more) -> Shipped:
    """The trainer over the images of the case, for training and test."""
    images = case.tensor("images")
    batches = steps.batches(case, images, case.tensor("labels"), restarts=True)
    more |= own_templates(case, case.templates)
    return Shipped(case, trainer, batches, test=images, official=NAMES.__getitem__, **more)


def check_run(case: Case, run: Shipped) -> None:
    """The training; the first logits of a case are those of its first batch."""
    case.compare("image_features", run.test_inputs)
    steps.check_run(case, run, first=len(run.trainer.train_loader_x.batches[0]["img"]))


def check_residual(case: Case) -> None:
    variant = case.config["variant"]
    learns_alpha = variant == "learnable" or "final_alpha" in case.arrays
    more = {"VARIANT": variant.replace("learnable", "text"), "LEARNABLE_ALPHA": learns_alpha}
    with TemporaryDirectory() as folder:
        if "enhanced_weight" in case.arrays:
            more["ENHANCED_BASE"] = str(Path(folder, "base.pth"))
            state = {"weight": case.tensor("enhanced_weight")}
            torch.save({"state_dict": state}, more["ENHANCED_BASE"])
        run = shipped(case, "TaskRes", **more)
    case.compare("base_text_features", run.method.base_text_features)
    keys = {name: f"init_{name}" for name in run.learned}
    run.start_at({name: case.tensor(key) for name, key in keys.items() if key in case.arrays})
    check_run(case, run)


def check_projection(case: Case) -> None:
    run = shipped(case, "TaskResBase")
    case.compare("pre_projection", run.method.pre_projection)
    case.compare("weight_init", run.method.weight)
    check_run(case, run)
    case.compare("base_text_features_final", run.method.base_text_features())


def check_transfer(case: Case) -> None:
    """A checkpoint of all ImageNet classes, loaded for the classes of a variant."""
    source, target = imagenet_wnids(), variant_wnids(case.config["target_dataset"])
    case.compare("class_index", torch.tensor([source.index(wnid) for wnid in target]))
    images, labels = case.tensor("images"), case.tensor("labels")
    run = Shipped(
        case, "TaskRes", [batch(images, labels)], test=images, labels=labels, classnames=target
    )
    folder = Path(run.trainer.output_dir)
    state = {
        "base_text_features": case.tensor("ckpt_base_text_features").float(),
        "text_feature_residuals": case.tensor("ckpt_text_feature_residuals").float(),
    }
    checkpoint = {"state_dict": state, "epoch": 1, "classnames": source}
    save_checkpoint(checkpoint, folder / run.trainer.model_name)
    run.trainer.load_model(str(folder), epoch=1)
    rows = len(case.arrays["loaded_base_rows"])
    case.compare("loaded_base_rows", run.method.base_text_features[:rows])
    case.compare("loaded_residual_rows", run.method.text_feature_residuals[:rows])
    logits = run.test()
    case.compare("logits", logits)
    case.compare("pred", logits.argmax(dim=-1))
    case.compare("accuracy", run.trainer.results["test"]["accuracy"])
