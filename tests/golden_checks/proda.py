"""ProDA: classifier, upper-bound loss on mini-batches of prompts, training steps."""

import torch

from golden_checks import prompt_steps
from golden_checks.common import Case


def check(case: Case) -> None:
    run = prompt_steps.shipped(case, "ProDA")
    with torch.no_grad():
        case.compare("classifier", run.method.text_features(run.clip))
    if "permutations" in case.arrays:  # the orders that would be drawn, one pass after the other
        run.trainer.order.left = case.arrays["permutations"].flatten().tolist()
    prompt_steps.check_run(case, run)
