"""ProGrad: teacher, both losses and their gradients, projected steps."""

import torch

from golden_checks import prompt_steps
from golden_checks.common import Case
from golden_checks.shipped import Shipped


def check(case: Case) -> None:
    run = prompt_steps.shipped(case, "ProGrad")
    check_two_gradients(case, run)
    prompt_steps.check_run(case, run, losses={"xe_loss": "loss", "kl_loss": "loss_kl"})


def check_two_gradients(case: Case, run: Shipped) -> None:
    """Both gradients before the projection; the projected one is the optimiser's."""
    first = run.trainer.train_loader_x.batches[0]
    losses = run.method.losses(run.clip, first["features"], first["label"])
    case.compare("zs_logits0", run.method.teacher_logits(run.clip, first["features"]))
    case.compare("xe0", losses["loss"])
    case.compare("kl0", losses["loss_kl"])
    for array, key in (("grad_xe0", "loss"), ("grad_kl0", "loss_kl")):
        case.compare(array, *torch.autograd.grad(losses[key], run.method.ctx, retain_graph=True))
