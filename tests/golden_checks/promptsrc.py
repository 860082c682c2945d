"""PromptSRC: prompted and frozen features, regulated loss, three epochs, Gaussian averaging."""

import re

import torch
from torch import nn

from golden_checks import prompt_steps as steps
from golden_checks.common import Case
from trainers.common.prompts import template_features
from trainers.promptsrc import GaussianAverage, SelfRegulatedPrompts


def check(case: Case) -> None:
    config, clip, names = case.config, case.load_clip(), case.spec["classnames"]
    templates = case.spec["template"]["frozen text ensemble"]
    frozen_text = template_features(clip, names, templates).mean(dim=0)
    method = SelfRegulatedPrompts(
        clip,
        names,
        frozen_text=frozen_text,
        text_weight=config["TEXT_LOSS_WEIGHT"],
        image_weight=config["IMAGE_LOSS_WEIGHT"],
        n_text=config["N_CTX_TEXT"],
        n_vision=config["N_CTX_VISION"],
        depth_text=config["PROMPT_DEPTH_TEXT"],
        depth_vision=config["PROMPT_DEPTH_VISION"],
        ctx_init=config["CTX_INIT"],
    )
    parameters = _official_names(method)
    steps.set_initial(case, parameters)
    case.compare("fixed_text_features", frozen_text)
    case.compare("logits", steps.test_logits(clip, method, case))
    _check_step_zero(case, clip, method)
    _check_training(case, clip, method, parameters)
    _check_import(case, clip, method, parameters)


def _official_names(method: SelfRegulatedPrompts) -> dict[str, nn.Parameter]:
    names = {}
    for name, parameter in method.named_parameters():
        deep = re.fullmatch(r"(vision|text)[._]deep\.(\d+)", name)
        if deep:
            tower = {"vision": "image", "text": "text"}[deep[1]]
            block = int(deep[2]) + 1
            official = f"{tower}_encoder.transformer.resblocks.{block}.VPT_shallow"
        else:
            official = {"ctx": "prompt_learner.ctx", "vision.first": "image_encoder.VPT"}[name]
        names[official] = parameter
    return names


@torch.no_grad()
def _check_step_zero(case: Case, clip, method: SelfRegulatedPrompts) -> None:
    images = case.tensor("x0")
    frozen = method.frozen_image_features(clip, images)
    raw = method.raw_image_features(clip, images)
    case.compare("text_features0", method.text_features(clip))
    case.compare("image_features0", method.image_features(raw))
    case.compare("zs_image_features0", frozen)
    case.compare("zs_logits0", method.logits(clip, frozen, method.frozen_text))
    losses = method.losses(clip, raw, case.tensor("y0").long(), frozen=frozen)
    case.compare("ce0", losses["loss_ce"])


def _check_training(case: Case, clip, method, parameters: dict[str, nn.Parameter]) -> None:
    config = case.config
    average = GaussianAverage(config["GPA_MEAN"], config["GPA_STD"], config["OPTIM"]["MAX_EPOCH"])
    case.compare("gpa_weights", average.weights)

    def step(k: int, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        images = case.tensor(f"x{k}")
        raw = method.raw_image_features(clip, images)
        frozen = method.frozen_image_features(clip, images)
        loss = method.losses(clip, raw, case.tensor(f"y{k}").long(), frozen=frozen)["loss"]
        optimizer.zero_grad()
        loss.backward()
        steps.compare_parameters(case, parameters, f"step{k}")
        optimizer.step()
        average.add(method, k)
        return loss

    losses = steps.run_steps(case, method, parameters, step)
    case.compare("loss", losses)
    average.load_into(method)
    steps.compare_parameters(case, parameters, "gpa")
    case.compare("logits_after", steps.test_logits(clip, method, case))


def _check_import(case: Case, clip, method, parameters: dict[str, nn.Parameter]) -> None:
    """An official whole-model file holds the prompts under these names, among all of CLIP."""
    state = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    state["image_encoder.conv1.weight"] = torch.zeros(1)
    method.load_state_dict(method.import_state(state, None, []))
    case.compare("logits_after", steps.test_logits(clip, method, case))
