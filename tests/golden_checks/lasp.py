"""LASP: hand-written and learned features, text-to-text loss, three training steps."""

import torch
from torch import nn

from golden_checks import prompt_steps as steps
from golden_checks.common import Case
from trainers.lasp import NORM_LR, OFFICIAL_BLOCKS, LASPPrompt, lasp_groups

NOISY_STEP = 1


def check(case: Case) -> None:
    config, clip, names = case.config, case.load_clip(), case.spec["classnames"]
    method = LASPPrompt(
        clip,
        names,
        templates=case.spec["template"]["hand-crafted"],
        weight=config["LASP_LOSS_WEIGHT"],
        ctx_init=config["CTX_INIT"],
        n_ctx=config.get("N_CTX", 4),
        extra_names=[name for name in config["all_class_names"] if name not in names],
        virtual=config["INCLUDE_ALL_CLASSES"],
        correction=config["ENABLE_CORRECTION"],
        tune_norms=config["FINETUNE_VIT_LN"],
    )
    parameters = {_official(name): p for name, p in method.named_parameters()}
    steps.set_initial(case, parameters)
    order = _order(case)
    noise = None
    if "noise" in case.arrays:
        noise = torch.empty_like(case.tensor("noise"))
        noise[:, order] = case.tensor("noise")  # of our order of classes: base names first
    _check_text(case, clip, method, order, noise)
    case.compare("logits", steps.test_logits(clip, method, case))

    def step(k: int, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        raw = method.raw_image_features(clip, case.tensor(f"x{k}"))
        labels = case.tensor(f"y{k}").long()
        given = noise if k == NOISY_STEP else None
        loss = method.losses_with(clip, raw, labels, noise=given)["loss"]
        optimizer.zero_grad()
        loss.backward()
        if config.get("grad_clip") is not None:
            nn.utils.clip_grad_norm_(method.parameters(), config["grad_clip"])
        optimizer.step()
        return loss

    assert config["OPTIM"].get("LN_LR_MULT", NORM_LR) == NORM_LR  # fixed in the official code
    groups = lasp_groups(method, config["OPTIM"]["LR"])
    losses = steps.run_steps(
        case, method, parameters, step, param_groups=groups, ignore=("LN_LR_MULT",)
    )
    case.compare("loss", losses)
    steps.compare_parameters(case, parameters, "after")
    case.compare("logits_after", steps.test_logits(clip, method, case))
    state = {name: p.detach().clone() for name, p in parameters.items()}
    method.load_state_dict(method.import_state(state, None, []))
    case.compare("logits_after", steps.test_logits(clip, method, case))


def _official(name: str) -> str:
    if name.startswith("vision_norms."):
        return OFFICIAL_BLOCKS + name.removeprefix("vision_norms.")
    return steps.LEARNER + name


def _order(case: Case) -> list[int]:
    """Where the classes of ``all_class_names`` stand in our list: base names, then the others."""
    names, every = case.spec["classnames"], case.config["all_class_names"]
    ours = [*names, *(name for name in every if name not in names)]
    return [ours.index(name) for name in every]


@torch.no_grad()
def _check_text(
    case: Case, clip, method: LASPPrompt, order: list[int], noise: torch.Tensor | None
) -> None:
    case.compare("class_text_features", method.written[:, order])
    case.compare("text_features", method.raw_text_features(clip)[: method.count])
    text_features = method.all_text_features(clip)
    case.compare("t2t_loss", method.text_to_text(clip, text_features, None))
    case.compare("t2t_loss_noisy", method.text_to_text(clip, text_features, noise))
