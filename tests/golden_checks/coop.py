"""CoOp: prompts, features, loss, gradient and training steps."""

import torch

from golden_checks.common import Case
from golden_checks.steps import train
from trainers.coop import CoOpPrompt


def check(case: Case) -> None:
    config, clip = case.config, case.load_clip()
    method = CoOpPrompt(
        clip,
        case.spec["classnames"],
        n_ctx=config["n_ctx"],
        ctx_init=config["ctx_init"],
        class_specific=config["csc"],
        position=config["class_token_position"],
    )
    if "init_ctx" in case.arrays:
        assert method.ctx.shape == case.arrays["init_ctx"].shape
        method.ctx.data = case.tensor("init_ctx")
    case.compare("ctx_start", method.ctx)
    case.compare("tokenized_prompts", method.tokenized_prompts)
    case.compare("name_lens", torch.tensor(method.name_lengths))

    labels = case.tensor("labels")
    with torch.no_grad():
        raw = method.raw_image_features(clip, case.tensor("images"))
    case.compare("image_features", raw)
    case.compare("text_features", method.raw_text_features(clip))

    def loss_of(step: int) -> torch.Tensor:
        return method.losses(clip, raw, labels)["loss"]

    def logits() -> torch.Tensor:
        text = method.text_features(clip)
        return method.logits(clip, method.image_features(raw), text)

    case.compare("logits_init", logits())
    loss = loss_of(0)
    case.compare("loss_init", loss)
    loss.backward()
    case.compare("grad_ctx", method.ctx.grad)

    losses, rates = train(method, config, loss_of)
    case.compare("losses", losses)
    case.compare("lrs", rates)
    case.compare("final_ctx", method.ctx)
    case.compare("logits_final", logits())
