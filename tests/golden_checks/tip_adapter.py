"""Tip-Adapter: cache, logits, grid search; Tip-Adapter-F: training, best epoch, report."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from dassl.config import get_cfg_default
from dassl.optim import build_lr_scheduler, build_optimizer
from golden_checks.common import Case
from trainers.common.cache_logits import Grid, SearchResult, cache_keys, search
from trainers.common.encoder import ClipEncoder
from trainers.common.prompts import zero_shot_classifier
from trainers.tip_adapter import Cache


def check(case: Case) -> None:
    data = _data(case)
    labels = case.tensor("shot_labels")
    keys = cache_keys(data.shots)
    case.compare("cache_keys", keys.t())
    case.compare("cache_values", F.one_hot(labels, len(data.classifier)).float())
    case.compare("val_features", data.val)
    case.compare("test_features", data.test)
    _check_training_free(case, data, _cache(case, data, keys, is_trainable=False))
    _check_fine_tuning(case, data, _cache(case, data, keys, is_trainable=True))


def _data(case: Case) -> SimpleNamespace:
    """Classifier (C, D), raw shots (V, N, D) and fine-tuning rows; unit rows of val and test."""
    if "shot_raw" in case.arrays:
        classifier = case.tensor("clip_weights").t()
        raw = {name: case.tensor(f"{name}_raw") for name in ("val", "test", "ft")}
        shots = case.tensor("shot_raw")
    else:
        clip = case.load_clip()
        encode = ClipEncoder(clip)
        classifier = zero_shot_classifier(clip, case.spec["classnames"], case.templates)
        case.compare("clip_weights", classifier.t())
        raw = {name: encode(case.tensor(f"{name}_images")) for name in ("val", "test", "ft")}
        shots = torch.stack([encode(images) for images in case.tensor("shot_images")])
    return SimpleNamespace(
        classifier=classifier,
        shots=shots,
        ft=raw["ft"],
        val=F.normalize(raw["val"], dim=-1),
        test=F.normalize(raw["test"], dim=-1),
    )


def _cache(case: Case, data: SimpleNamespace, keys: Tensor, *, is_trainable: bool) -> Cache:
    config = case.config
    cache = Cache(
        data.classifier,
        beta=config["init_beta"],
        alpha=config["init_alpha"],
        clip_scale=config["logit_scale"],
        is_trainable=is_trainable,
    )
    cache.fill(keys, case.tensor("shot_labels"))
    return cache


def _logits(cache: Cache, features: Tensor) -> Tensor:
    with torch.no_grad():
        return cache.logits(None, features, cache.text_features(None))


def _search(case: Case, cache: Cache, features: Tensor, split: str) -> SearchResult:
    grid = Grid(tuple(case.config["search_scale"]), tuple(case.config["search_step"]))
    return search(
        cache.clip_logits(None, features, cache.clip_classifier),
        cache.affinities(features).detach(),
        cache.key_labels,
        case.tensor(f"{split}_labels"),
        grid,
    )


def _accuracy(case: Case, logits: Tensor) -> float:
    hits = logits.argmax(dim=-1) == case.tensor("test_labels")
    return 100 * hits.double().mean().item()


def _check_training_free(case: Case, data: SimpleNamespace, cache: Cache) -> None:
    case.compare("val_logits_init", _logits(cache, data.val))
    on_test = _search(case, cache, data.test, "test")
    case.compare("search_on_test", [on_test.beta, on_test.alpha])
    on_val = _search(case, cache, data.val, "val")
    case.compare("val_acc_grid", on_val.accuracy)
    case.compare("best_beta_alpha", [on_val.beta, on_val.alpha])
    cache.set_weights(on_val.beta, on_val.alpha)
    logits = _logits(cache, data.test)
    case.compare("test_logits_best", logits)
    zero_shot = cache.clip_logits(None, data.test, data.classifier)
    accuracies = [round(_accuracy(case, scores), 2) for scores in (zero_shot, logits)]
    case.compare("tip_test_acc", accuracies)


def _check_fine_tuning(case: Case, data: SimpleNamespace, cache: Cache) -> None:
    config, size = case.config, case.config["batch_size"]
    batches = list(zip(data.ft.split(size), case.tensor("ft_labels").split(size)))
    loss = cache.losses(None, *batches[0])["loss"]
    case.compare("f_first_loss", loss)
    loss.backward()
    case.compare("f_first_grad", cache.keys.grad)
    accuracies, best_keys = _fine_tune(case, data, cache, batches)
    best_epoch = int(torch.tensor(accuracies).argmax())
    case.compare("f_best_epoch", torch.tensor(best_epoch))
    cache.fill(best_keys[best_epoch], cache.key_labels)
    found = _search(case, cache, data.val, "val")
    case.compare("f_val_acc_grid", found.accuracy)
    case.compare("f_best_beta_alpha", [found.beta, found.alpha])
    cache.set_weights(found.beta, found.alpha)
    after_search = _accuracy(case, _logits(cache, data.test))
    case.compare("f_reported_acc", round(max(accuracies[best_epoch], after_search), 2))
    assert config["epochs"] == len(accuracies)


def _fine_tune(case: Case, data, cache: Cache, batches: list) -> tuple[list[float], list[Tensor]]:
    config, per_epoch = case.config, case.config["steps_per_epoch"]
    cfg = get_cfg_default().OPTIM
    cfg.NAME, cfg.LR, cfg.EPS = "adamw", config["lr"], config["eps"]
    cfg.WEIGHT_DECAY, cfg.LR_SCHEDULER = config["weight_decay"], "cosine"
    cfg.MAX_EPOCH, cfg.STEP_PER = config["epochs"], "batch"
    groups = [{"params": [cache.keys], "fused": True}]  # as the trainer's
    optimizer = build_optimizer(cache, cfg, groups)
    scheduler = build_lr_scheduler(optimizer, cfg, per_epoch)
    losses, rates, accuracies, keys = [], [], [], []
    for step in range(config["epochs"] * per_epoch):
        loss = cache.losses(None, *batches[step])["loss"]
        optimizer.zero_grad()
        loss.backward()
        rates.append(optimizer.param_groups[0]["lr"])
        losses.append(loss.item())
        optimizer.step()
        scheduler.step()
        if step == 2:
            case.compare("f_keys_after3", cache.keys)
        if (step + 1) % per_epoch == 0:
            accuracies.append(_accuracy(case, _logits(cache, data.test)))
            keys.append(cache.keys.detach().clone())
    case.compare("f_losses", losses)
    case.compare("f_lrs", rates)
    case.compare("f_keys_final", keys[-1])
    case.compare("f_test_acc_epochs", [round(value, 2) for value in accuracies])
    return accuracies, keys
