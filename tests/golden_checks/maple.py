"""MaPLe: prompted features of both towers, training steps."""

import torch

from golden_checks import prompt_steps
from golden_checks.common import Case


def check(case: Case) -> None:
    run = prompt_steps.shipped(case, "MaPLe")
    with torch.no_grad():
        image_features = run.method.raw_image_features(run.clip, case.tensor("x_test"))
        case.compare("text_features", run.method.raw_text_features(run.clip))
        case.compare("image_features", image_features)
    prompt_steps.check_run(case, run)
