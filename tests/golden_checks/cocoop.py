"""CoCoOp: conditional text features, logits, training steps."""

import torch

from golden_checks import prompt_steps
from golden_checks.common import Case


def check(case: Case) -> None:
    run = prompt_steps.shipped(case, "CoCoOp")
    images = run.test_inputs
    with torch.no_grad():
        image_features = run.method.image_features(images)
        text_features = run.method.conditional_text_features(run.clip, image_features)
    case.compare("tokenized_prompts", run.method.tokenized_prompts)
    case.compare("image_features", image_features)
    case.compare("text_features", text_features)
    prompt_steps.check_run(case, run)
