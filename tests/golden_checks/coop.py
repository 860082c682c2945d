"""CoOp: prompts, features, loss, gradient and training steps."""

import torch

from golden_checks import steps
from golden_checks.common import Case
from golden_checks.shipped import Shipped


def check(case: Case) -> None:
    images = case.tensor("images")
    batches = steps.batches(case, images, case.tensor("labels"))
    run = Shipped(case, "CoOp", batches, test=images)
    if "init_ctx" in case.arrays:
        run.start_at({"ctx": case.tensor("init_ctx")})
    case.compare("ctx_start", run.method.ctx)
    case.compare("tokenized_prompts", run.method.tokenized_prompts)
    case.compare("name_lens", torch.tensor(run.method.name_lengths))
    case.compare("image_features", run.test_inputs)
    case.compare("text_features", run.method.raw_text_features(run.clip))
    steps.check_run(case, run)
