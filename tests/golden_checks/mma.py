"""MMA: adapted towers, amplified gradients, training steps, class split, parser, layer analysis."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from clip import tokenize
from clip.model import TowerHook
from dassl.data.datasets import Datum
from datasets.subsampling import subsample_classes
from golden_checks.common import Case
from golden_checks.prompt_steps import set_initial
from golden_checks.shipped import Shipped, batch, in_epochs
from tools.layers import (
    centroid_gap,
    class_means,
    image_levels,
    linear_cka,
    nearest_mean_accuracy,
    text_levels,
)
from tools.results.statistics import harmonic_mean
from trainers.common.text.encode import encode_prompts
from trainers.mma import AdapterLearner

ROOT = Path(__file__).resolve().parents[2]


def check(case: Case) -> None:
    if "train_labels" in case.arrays:
        check_split(case)
    elif "logits" in case.arrays:
        check_adapters(case)
    elif "harmonic" in case.arrays:
        check_parser(case)
    else:
        check_layers(case)


class _Recorder(TowerHook):
    """Keeps what every block returns after the adapters of the wrapped hook."""

    all_rows = True

    def __init__(self, hook: TowerHook) -> None:
        self.hook, self.states = hook, []

    def embed(self, x):
        return self.hook.embed(x)

    def block(self, i, block, x):
        self.states.append(self.hook.block(i, block, x))
        return self.states[-1]


def _compare(case: Case, name: str, actual) -> None:
    """|a - b| <= atol * max(1, max|b|) + rtol * |b|, the rule of the mma cases."""
    if name not in case.arrays:
        return
    scale = max(1.0, float(np.abs(case.arrays[name]).max(initial=0.0)))
    case.compare(name, actual, atol=case.tolerance(name)["atol"] * scale)


def check_adapters(case: Case) -> None:
    images, labels = case.tensor("images"), case.tensor("labels")
    per_epoch = case.config["batches_per_epoch"]
    batches = in_epochs([batch(*pair) for pair in zip(images, labels)], per_epoch)
    run = Shipped(case, "MMA", batches, test=images[0])
    set_initial(case, run)
    if "parameter_order" in case.config:
        assert list(run.learned) == case.config["parameter_order"]
    _compare(case, "num_trainable", sum(p.numel() for p in run.learned.values()))
    _compare(case, "tokens", run.method.tokenized_prompts)
    _check_features(case, run.clip, run.method, images[0])
    _compare(case, "logits", run.test())
    run.train(epochs=-(-len(images) // per_epoch))
    _check_training(case, run, ends_epoch=len(images) % per_epoch == 0)
    _check_tests(case, run)


def _check_features(case: Case, clip, learner: AdapterLearner, images) -> None:
    tokens = learner.tokenized_prompts
    with torch.no_grad():
        _compare(case, "plain_text_features", encode_prompts(clip, tokens))
        _compare(case, "plain_image_features", clip.encode_image(images))
        text, image = _Recorder(learner.text_hook(clip)), _Recorder(learner.image_hook())
        clip.encode_text(tokens, hook=text)
        clip.encode_image(images, hook=image)
        rows = torch.arange(len(tokens))
        at_eot = [states[tokens.argmax(dim=-1), rows] for states in text.states]
        _compare(case, "text_hidden_eot", torch.stack(at_eot))
        _compare(case, "image_hidden_cls", torch.stack([states[0] for states in image.states]))
        _compare(case, "text_features", learner.raw_text_features(clip))
        _compare(case, "image_features", learner.raw_image_features(clip, images))


def _check_training(case: Case, run: Shipped, *, ends_epoch: bool) -> None:
    losses, rates = [step["loss"] for step in run.losses], [groups[0] for groups in run.rates]
    _compare(case, "loss", losses[0])
    _compare(case, "step_losses", losses)
    _compare(case, "step_lrs", rates)
    # the trainer ends an epoch that the case leaves in the middle, and steps the schedule
    _compare(case, "lr_after", run.trainer.get_current_lr() if ends_epoch else rates[-1])
    for prefix, values in (("grad", run.gradients[0]), ("after", run.learned)):
        for name, value in values.items():
            _compare(case, f"{prefix}/{name}", value)
        norms = [values[name].detach().double().norm().item() for name in run.learned]
        _compare(case, f"{prefix}_norms", norms)


def _check_tests(case: Case, run: Shipped) -> None:
    """What the run saved, tested by new trainers: on its classes, and on new ones."""
    folder, images = run.trainer.output_dir, case.tensor("eval_images")
    for name, classnames in (("base", None), ("new", case.spec["new_classnames"])):
        other = Shipped(case, "MMA", None, test=images, classnames=classnames)
        other.trainer.load_model(folder, epoch=run.trainer.epoch + 1)
        _compare(case, f"eval_logits_{name}", other.test())
        with torch.no_grad():
            text_features = other.method.raw_text_features(other.clip)
        _compare(case, f"text_features_{name}", text_features)


def check_split(case: Case) -> None:
    names = {int(label): name for label, name in case.config["classnames_by_label"].items()}
    lists = []
    for split in ("train", "val", "test"):
        labels = case.arrays[f"{split}_labels"].tolist()
        lists.append([_item(k, label, names.get(label, "?")) for k, label in enumerate(labels)])
    subsets = [name for name in ("all", "base", "new") if f"{name}/train_index" in case.arrays]
    for subsample in subsets:
        kept = subsample_classes(*lists, subsample=subsample)
        for split, items in zip(("train", "val", "test"), kept):
            case.compare(f"{subsample}/{split}_index", [int(item.impath) for item in items])
            case.compare(f"{subsample}/{split}_label", [item.label for item in items])
        by_label = {item.label: item.classname for item in kept[0]}
        classnames = [by_label[label] for label in sorted(by_label)]
        assert classnames == case.spec[f"expected_classnames_{subsample}"]


def _item(position: int, label: int, classname: str) -> Datum:
    """An item whose path is its position; no file is read."""
    item = object.__new__(Datum)
    item._impath, item._label, item._domain, item._classname = str(position), label, 0, classname
    return item


def check_parser(case: Case) -> None:
    for row in case.arrays["harmonic"]:
        base, new, expected = row.tolist()
        assert abs(harmonic_mean(base, new) - expected) <= case.spec["atol"]
    for name, entry in case.spec["cases"].items():
        with tempfile.TemporaryDirectory() as folder:
            for path, text in entry["tree"].items():
                file = Path(folder, "exp", path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
            command = [sys.executable, str(ROOT / "parse_test_res.py"), "exp", "--style", "coop"]
            done = subprocess.run(
                [*command, *entry["args"]], cwd=folder, capture_output=True, text=True, check=True
            )
        printed = [line for line in done.stdout.splitlines() if line.strip()]
        assert printed == entry["stdout"], f"{name}: {printed}"


def check_layers(case: Case) -> None:
    clip = case.load_clip()
    arrays, names = case.arrays, case.spec["classnames"]
    text = text_levels(clip, names, template=case.spec["template"])
    image = image_levels(clip, case.tensor("images"))
    case.compare("tokens", tokenize([case.spec["template"].format(name) for name in names]))
    for tower, levels in (("text", text), ("image", image)):
        _compare(case, f"{tower}_token", torch.stack(levels.token))
        means = torch.stack([levels.mean[level] for level in (0, 6, 12)])
        _compare(case, f"{tower}_mean_l0_l6_l12", means)
        _compare(case, f"{tower}_proj", levels.proj)
        datasets = arrays["text_dataset"] if tower == "text" else arrays["image_dataset"]
        halves = arrays[f"{tower}_train"], arrays[f"{tower}_test"]
        accuracies = [
            nearest_mean_accuracy(features, torch.tensor(datasets), *map(torch.tensor, halves))
            for features in levels.default()
        ]
        assert np.array_equal(np.array(accuracies), arrays[f"{tower}_dataset_acc"])
    classes = case.tensor("image_class")
    gaps = [
        linear_cka(t, class_means(i, classes, len(names)))
        for t, i in zip(text.default(), image.default())
    ]
    case.compare("cka", gaps, rtol=0, atol=1e-4)
    case.compare("centroid_gap", centroid_gap(text.proj, image.proj), rtol=0, atol=1e-4)
