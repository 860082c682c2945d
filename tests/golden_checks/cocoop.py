"""CoCoOp: conditional text features, logits, three training steps."""

import torch

from golden_checks import prompt_steps as steps
from golden_checks.common import Case
from trainers.cocoop import CoCoOpPrompt


def check(case: Case) -> None:
    config, clip = case.config, case.load_clip()
    method = CoCoOpPrompt(
        clip, case.spec["classnames"], n_ctx=config["N_CTX"], ctx_init=config["CTX_INIT"]
    )
    parameters = steps.learner_parameters(method)
    steps.set_initial(case, parameters)
    case.compare("tokenized_prompts", method.tokenized_prompts)
    with torch.no_grad():
        raw = method.raw_image_features(clip, case.tensor("x_test"))
        image_features = method.image_features(raw)
        text_features = method.conditional_text_features(clip, image_features)
    case.compare("image_features", image_features)
    case.compare("text_features", text_features)
    case.compare("logits", steps.test_logits(clip, method, case))
    losses = steps.run_steps(case, method, parameters, steps.plain_step(clip, method, case))
    case.compare("loss", losses)
    steps.compare_parameters(case, parameters, "after")
    case.compare("logits_after", steps.test_logits(clip, method, case))
