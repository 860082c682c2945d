"""CLIP-Adapter: features, logits, gradients and training of the bottleneck."""

import torch
from torch import Tensor

from dassl.config import get_cfg_default
from dassl.optim import build_lr_scheduler, build_optimizer
from golden_checks.common import Case
from trainers.clip_adapter import ImageAdapter
from trainers.common.encoder import ClipEncoder
from trainers.common.prompts import template_features


def check(case: Case) -> None:
    config, clip = case.config, case.load_clip()
    text = template_features(clip, case.spec["classnames"], case.templates).mean(dim=0)
    case.compare("text_features", text)
    method = ImageAdapter(text, ratio=config["ratio"], reduction=config["reduction"])
    method.down.weight.data.copy_(case.tensor("W1"))
    method.up.weight.data.copy_(case.tensor("W2"))
    encode = ClipEncoder(clip)
    test, train = encode(case.tensor("test_images")), encode(case.tensor("train_images"))
    case.compare("test_image_features", test)

    def logits() -> Tensor:
        with torch.no_grad():
            return method.logits(clip, method.image_features(test), method.text_features(clip))

    case.compare("test_logits_init", logits())
    size = config["batch_size"]
    batches = list(zip(train.split(size), case.tensor("train_labels").split(size)))
    loss = method.losses(clip, *batches[0])["loss"]
    case.compare("first_loss", loss)
    loss.backward()
    case.compare("grad_W1", method.down.weight.grad)
    case.compare("grad_W2", method.up.weight.grad)
    _train(case, clip, method, batches)
    case.compare("test_logits_final", logits())


def _train(case: Case, clip, method: ImageAdapter, batches: list) -> None:
    config = case.config
    cfg = get_cfg_default().OPTIM
    cfg.NAME, cfg.LR, cfg.LR_SCHEDULER = config["optimizer"].lower(), config["lr"], "cosine"
    cfg.MOMENTUM, cfg.WEIGHT_DECAY = config["momentum"], config["weight_decay"]
    cfg.MAX_EPOCH, cfg.WARMUP_EPOCH, cfg.WARMUP_TYPE = config["max_epoch"], 1, "constant"
    optimizer = build_optimizer(method, cfg)
    scheduler = build_lr_scheduler(optimizer, cfg)
    losses, rates = [], []
    for step in range(config["steps"]):
        loss = method.losses(clip, *batches[step % len(batches)])["loss"]
        optimizer.zero_grad()
        loss.backward()
        rates.append(optimizer.param_groups[0]["lr"])
        losses.append(loss.item())
        optimizer.step()
        if (step + 1) % config["batches_per_epoch"] == 0:
            scheduler.step()
        if step == 2:
            case.compare("W1_after3", method.down.weight)
            case.compare("W2_after3", method.up.weight)
    case.compare("losses", losses)
    case.compare("lrs", rates)
    case.compare("W1_final", method.down.weight)
    case.compare("W2_final", method.up.weight)
