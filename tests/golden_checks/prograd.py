"""ProGrad: teacher, both losses and their gradients, three projected steps."""

import torch

from dassl.engine.prograd import projected_gradients
from golden_checks import prompt_steps as steps
from golden_checks.common import Case
from trainers.common.prompts import zero_shot_classifier
from trainers.common.templates import dataset_template
from trainers.prograd import ProGradPrompt


def check(case: Case) -> None:
    config, clip, names = case.config, case.load_clip(), case.spec["classnames"]
    template = dataset_template(config["dataset"], "prograd")
    method = ProGradPrompt(
        clip,
        names,
        teacher=zero_shot_classifier(clip, names, [template]),
        temperature=config["T"],
        n_ctx=config["N_CTX"],
        words=template.replace(" {}.", "") if config["CTX_INIT"] else "",
        class_specific=config.get("CSC", False),
    )
    parameters = steps.learner_parameters(method)
    steps.set_initial(case, parameters)
    case.compare("logits", steps.test_logits(clip, method, case))
    distances = []

    def step(k: int, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        raw = method.raw_image_features(clip, case.tensor(f"x{k}"))
        losses = method.losses(clip, raw, case.tensor(f"y{k}").long())
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        trained = [p for p in trained if p.requires_grad]
        if k == 0:
            grads_kl = torch.autograd.grad(losses["loss_kl"], trained, retain_graph=True)
            grads_ce = torch.autograd.grad(losses["loss"], trained, retain_graph=True)
            case.compare("zs_logits0", method.teacher_logits(clip, raw))
            case.compare("xe0", losses["loss"])
            case.compare("kl0", losses["loss_kl"])
            case.compare("grad_xe0", grads_ce[0])
            case.compare("grad_kl0", grads_kl[0])
        gradients = projected_gradients(
            losses["loss"], losses["loss_kl"], trained, strength=config["LAMBDA"]
        )
        for parameter, gradient in zip(trained, gradients):
            parameter.grad = gradient
        optimizer.step()
        distances.append(losses["loss_kl"].item())
        return losses["loss"]

    losses = steps.run_steps(case, method, parameters, step)
    case.compare("xe_loss", losses)
    case.compare("kl_loss", distances)
    steps.compare_parameters(case, parameters, "after")
    case.compare("logits_after", steps.test_logits(clip, method, case))
