"""Tip-Adapter: cache, logits, grid search; Tip-Adapter-F: training, best epoch, report.

All of it in the registered trainers, over images or over CLIP's features.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from golden_checks.common import Case
from golden_checks.runs import metrics_lines
from golden_checks.settings import own_templates
from golden_checks.shipped import Shipped, batch, in_epochs
from golden_checks.stored import StoredClip
from trainers.tip_adapter import Cache
from trainers.tip_adapter.scores import SearchResult


def check(case: Case) -> None:
    _check_logits(case)
    _check_search(case)
    _check_fine_tuning(case)


def _shipped(case: Case, trainer: str, rule: str) -> Shipped:
    """A trainer whose shots, training batches and splits are the case's."""
    config = case.config
    settings = {"TEST.SELECT_ON": rule, "CLIP_SCALE": config.get("logit_scale")}
    parts: dict[str, Any] = {"shots": [_shots(case)], "val": [_split(case, "val")]}
    if case.spec["backbone"]:
        classnames = case.spec["classnames"]
        settings |= own_templates(case, case.templates)
    else:
        parts["clip"] = StoredClip(case.tensor("clip_weights").t())
        classnames = parts["clip"].classnames
        settings["DATASET.TEMPLATES"] = parts["clip"].templates
    size, tuning, test = config["batch_size"], _split(case, "ft"), _split(case, "test")
    batches = [batch(*pair) for pair in zip(tuning["img"].split(size), tuning["label"].split(size))]
    return Shipped(
        case,
        trainer,
        in_epochs(batches, config["steps_per_epoch"]),
        test=test["img"],
        labels=test["label"],
        classnames=classnames,
        parts=parts,
        **settings,
    )


def _inputs(case: Case, name: str) -> Tensor:
    """Images, or the raw features that a case holds in their place."""
    return case.tensor(f"{name}_images" if f"{name}_images" in case.arrays else f"{name}_raw")


def _split(case: Case, name: str) -> dict[str, Tensor]:
    return batch(_inputs(case, name), case.tensor(f"{name}_labels"))


def _shots(case: Case) -> dict[str, Tensor]:
    """The shots with their passes as views, (N, V, ...)."""
    views = _inputs(case, "shot").transpose(0, 1)
    return {"img": views[:, 0], "views": views, "label": case.tensor("shot_labels")}


def _keys(run: Shipped, keys: Tensor) -> Tensor:
    """The trainer's keys in the order of the shots."""
    return keys[run.trainer.key_order.argsort()]


def _features(run: Shipped, split: str) -> Tensor:
    """(n, D) unit rows of a split."""
    items = getattr(run.trainer.dm.dataset, split)
    return run.method.image_features(run.trainer.bank.test(items).all(0))


def _zero_shot_accuracy(case: Case, run: Shipped) -> float:
    cache: Cache = run.method
    logits = cache.clip_logits(run.clip, _features(run, "test"), cache.clip_classifier)
    return 100 * (logits.argmax(dim=-1) == case.tensor("test_labels")).double().mean().item()


def _watch_search(run: Shipped) -> list[SearchResult]:
    """The results of every search that the trainer will make."""
    found, search = [], run.trainer.search_on

    def watched(split: str) -> SearchResult:
        found.append(search(split))
        return found[-1]

    run.trainer.search_on = watched
    return found


def _check_logits(case: Case) -> None:
    """The cache, and logits of the initial pair."""
    run = _shipped(case, "TipAdapter", "last")
    case.compare("clip_weights", run.method.clip_classifier.t())
    run.trainer.train()
    case.compare("cache_keys", _keys(run, run.method.keys).t())
    values = F.one_hot(_keys(run, run.method.key_labels), len(run.method.clip_classifier))
    case.compare("cache_values", values.float())
    for split in ("val", "test"):
        case.compare(f"{split}_features", _features(run, split))
    run.test("val")
    case.compare("val_logits_init", run.logits)


def _check_search(case: Case) -> None:
    """The searched pair is the one that is tested."""
    on_test = _shipped(case, "TipAdapter", "test")
    (found,) = _trained(on_test)
    case.compare("search_on_test", [found.beta, found.alpha])
    run = _shipped(case, "TipAdapter", "val")
    (found,) = _trained(run)
    case.compare("val_acc_grid", found.accuracy)
    case.compare("best_beta_alpha", [found.beta, found.alpha])
    case.compare("best_beta_alpha", [run.method.beta, run.method.alpha])
    case.compare("test_logits_best", run.test())
    tested = run.trainer.results["test"]["accuracy"]
    case.compare("tip_test_acc", [round(_zero_shot_accuracy(case, run), 2), round(tested, 2)])


def _trained(run: Shipped) -> list[SearchResult]:
    found = _watch_search(run)
    run.trainer.train()
    return found


def _check_fine_tuning(case: Case) -> None:
    """The rule "test" is the official procedure: best test epoch, search, the better of both."""
    config = case.config
    run = _shipped(case, "TipAdapterF", "test")
    (found,) = _trained(run)
    keys = [_keys(run, values["keys"]) for values in run.parameters]
    losses = [step["loss"] for step in run.losses]
    case.compare("f_first_loss", losses[0])
    case.compare("f_first_grad", _keys(run, run.gradients[0]["keys"]))
    case.compare("f_losses", losses)
    case.compare("f_lrs", [groups[0] for groups in run.rates])
    for step, values in enumerate(keys, start=1):
        case.compare(f"f_keys_after{step}", values)
    case.compare("f_keys_final", keys[-1])
    lines = [x for x in metrics_lines(run.trainer.output_dir, "accuracy") if x["split"] == "test"]
    accuracies = [round(line["accuracy"], 2) for line in lines[: config["epochs"]]]
    case.compare("f_test_acc_epochs", accuracies)
    epoch = run.trainer.selected_epoch - 1
    case.compare("f_best_epoch", torch.tensor(epoch))
    torch.testing.assert_close(
        _keys(run, run.method.keys), keys[(epoch + 1) * config["steps_per_epoch"] - 1]
    )
    case.compare("f_val_acc_grid", found.accuracy)
    case.compare("f_best_beta_alpha", [found.beta, found.alpha])
    case.compare("f_reported_acc", round(run.trainer.results["test"]["accuracy"], 2))
