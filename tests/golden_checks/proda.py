"""ProDA: classifier, upper-bound loss on mini-batches of prompts, three training steps."""

import torch

from golden_checks import prompt_steps as steps
from golden_checks.common import Case
from trainers.proda import PromptDistribution, PromptOrder


def check(case: Case) -> None:
    config, clip = case.config, case.load_clip()
    method = PromptDistribution(
        clip,
        case.spec["classnames"],
        prompts=config["N_PROMPT"],
        n_ctx=config["N_CTX"],
        alpha=config["ALPHA"],
    )
    parameters = steps.learner_parameters(method)
    steps.set_initial(case, parameters)
    with torch.no_grad():
        case.compare("classifier", method.text_features(clip))
    case.compare("logits", steps.test_logits(clip, method, case))
    order = PromptOrder(config["N_PROMPT"], config["PROMPT_BS"])
    passes = iter(case.arrays["permutations"].tolist() if "permutations" in case.arrays else [])

    def step(k: int, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        if not order.left:
            order.left = next(passes, [])
        raw = method.raw_image_features(clip, case.tensor(f"x{k}"))
        labels = case.tensor(f"y{k}").long()
        loss = method.losses(clip, raw, labels, members=order.next())["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    losses = steps.run_steps(case, method, parameters, step)
    case.compare("loss", losses)
    steps.compare_parameters(case, parameters, "after")
    case.compare("logits_after", steps.test_logits(clip, method, case))
