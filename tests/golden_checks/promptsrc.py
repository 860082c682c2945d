"""PromptSRC: prompted and frozen features, regulated loss, epochs, Gaussian averaging."""

import re

import torch
import torch.nn.functional as F

from golden_checks import prompt_steps
from golden_checks.common import Case
from golden_checks.settings import own_templates
from golden_checks.shipped import Shipped
from trainers.common.checkpoints import load_state
from trainers.common.text.encode import template_features

_DEEP = re.compile(r"(vision|text)[._]deep\.(\d+)")


def check(case: Case) -> None:
    templates = case.spec["template"]["frozen text ensemble"]
    run = prompt_steps.shipped(
        case, "PromptSRC", official=_official, **own_templates(case, templates)
    )
    _check_frozen_text(case, run, templates)
    case.compare("gpa_weights", run.trainer.average.weights)
    _check_first_step(case, run)
    prompt_steps.check_run(case, run)
    case.compare("ce0", run.losses[0]["loss_ce"])
    for step, parameters in enumerate(run.parameters, start=1):
        prompt_steps.compare_parameters(case, parameters, f"step{step}")
    prompt_steps.compare_parameters(case, run.learned, "gpa")
    _check_import(case, run)


def _official(name: str) -> str:
    deep = _DEEP.fullmatch(name)
    if not deep:
        return {"ctx": "prompt_learner.ctx", "vision.first": "image_encoder.VPT"}[name]
    tower = {"vision": "image", "text": "text"}[deep[1]]
    return f"{tower}_encoder.transformer.resblocks.{int(deep[2]) + 1}.VPT_shallow"


def _check_frozen_text(case: Case, run: Shipped, templates: list[str]) -> None:
    """The case holds the mean before normalisation, the method unit rows of it."""
    features = template_features(run.clip, case.spec["classnames"], templates)
    case.compare("fixed_text_features", features.mean(dim=0))
    unit = F.normalize(case.tensor("fixed_text_features"), dim=-1)
    case.compare("fixed_text_features", run.method.frozen_text, unit)


@torch.no_grad()
def _check_first_step(case: Case, run: Shipped) -> None:
    method, clip, images = run.method, run.clip, case.tensor("x0")
    frozen = method.frozen_image_features(clip, images)
    image_features = method.image_features(method.raw_image_features(clip, images))
    case.compare("text_features0", method.text_features(clip))
    case.compare("image_features0", image_features)
    case.compare("zs_image_features0", frozen)
    case.compare("zs_logits0", method.logits(clip, frozen, method.frozen_text))


@torch.no_grad()
def _check_import(case: Case, run: Shipped) -> None:
    """An official whole-model file holds the prompts under these names, among all of CLIP."""
    state = {name: p.detach().clone() for name, p in run.learned.items()}
    state["image_encoder.conv1.weight"] = torch.zeros(1)
    run.start_at({name: torch.zeros_like(p) for name, p in run.learned.items()})
    load_state(run.method, state, None, [], str(case.path))
    run.method.eval()
    case.compare("logits_after", run.method(run.clip, case.tensor("x_test")))
