"""LASP: hand-written and learned features, text-to-text loss, training steps."""

import torch
from torch import Tensor

from golden_checks import prompt_steps
from golden_checks.common import Case
from golden_checks.shipped import Shipped
from trainers.common.checkpoints import load_state
from trainers.lasp.method import NORMS, OFFICIAL_BLOCKS

NOISY_STEP = 1


def check(case: Case) -> None:
    config = case.config
    clip_norm = config.get("grad_clip")  # gradients are clipped with PREC amp, as published
    run = prompt_steps.shipped(
        case,
        "LASP",
        official=_official,
        parts={"all_classnames": config["all_class_names"]},
        LASP_PROMPTS=case.spec["template"]["hand-crafted"],
        PREC="fp32" if clip_norm is None else "amp",
        GRAD_CLIP=clip_norm,
    )
    order = _order(case)
    noise = None
    if "noise" in case.arrays:
        noise = torch.empty_like(case.tensor("noise"))
        noise[:, order] = case.tensor("noise")  # of our order of classes: base names first
    _check_text(case, run, order, noise)
    columns = slice(len(case.spec["classnames"]))  # ours: extra names never compete in a test
    draws = iter([noise if k == NOISY_STEP else None for k in prompt_steps.steps(case)])
    run.method.draw_noise = lambda: next(draws)
    prompt_steps.check_run(case, run, columns=columns)
    _check_import(case, run)


def _official(name: str) -> str:
    if name.startswith(NORMS):
        return OFFICIAL_BLOCKS + name.removeprefix(NORMS)
    return prompt_steps.LEARNER + name


def _order(case: Case) -> list[int]:
    """Where the classes of ``all_class_names`` stand in our list: base names, then the others."""
    names, every = case.spec["classnames"], case.config["all_class_names"]
    ours = [*names, *(name for name in every if name not in names)]
    return [ours.index(name) for name in every]


@torch.no_grad()
def _check_text(case: Case, run: Shipped, order: list[int], noise: Tensor | None) -> None:
    method, clip = run.method, run.clip
    case.compare("class_text_features", method.written[:, order])
    case.compare("text_features", method.raw_text_features(clip)[: method.count])
    text_features = method.all_text_features(clip)
    case.compare("t2t_loss", method.text_to_text(clip, text_features, None))
    case.compare("t2t_loss_noisy", method.text_to_text(clip, text_features, noise))
    case.compare("logits", method(clip, case.tensor("x_test")))


@torch.no_grad()
def _check_import(case: Case, run: Shipped) -> None:
    """The parameters under their official names, loaded as an official file is."""
    state = {name: p.detach().clone() for name, p in run.learned.items()}
    run.start_at({name: torch.zeros_like(p) for name, p in run.learned.items()})
    load_state(run.method, state, None, [], str(case.path))
    run.method.eval()
    case.compare("logits_after", run.method(run.clip, case.tensor("x_test")))
