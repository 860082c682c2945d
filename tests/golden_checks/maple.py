"""MaPLe: prompted features of both towers, three training steps."""

import torch

from golden_checks import prompt_steps as steps
from golden_checks.common import Case
from trainers.maple import MaPLePrompt


def check(case: Case) -> None:
    config, clip = case.config, case.load_clip()
    method = MaPLePrompt(
        clip,
        case.spec["classnames"],
        n_ctx=config["N_CTX"],
        ctx_init=config["CTX_INIT"],
        depth=config["PROMPT_DEPTH"],
    )
    parameters = steps.learner_parameters(method)
    steps.set_initial(case, parameters)
    with torch.no_grad():
        case.compare("text_features", method.raw_text_features(clip))
        case.compare("image_features", method.raw_image_features(clip, case.tensor("x_test")))
    case.compare("logits", steps.test_logits(clip, method, case))
    losses = steps.run_steps(case, method, parameters, steps.plain_step(clip, method, case))
    case.compare("loss", losses)
    steps.compare_parameters(case, parameters, "after")
    case.compare("logits_after", steps.test_logits(clip, method, case))
