"""Golden cases of the engine: data, optimisers, schedules, evaluator, loop, result parser."""

import contextlib
import io
import itertools
import os
import random
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from dassl.config import get_cfg_default
from dassl.data.datasets import DatasetBase, Datum
from dassl.data.samplers import build_sampler
from dassl.data.transforms import build_transform
from dassl.evaluation import build_evaluator
from dassl.metrics import compute_accuracy, compute_distance_matrix
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import AverageMeter, MetricMeter
from golden_checks.common import Case
from golden_checks.engine_loop import check_loop


def check(case: Case) -> None:
    """Run the comparisons that the case's contents ask for."""
    config, arrays = case.config, case.arrays
    run = (config.get("runs") or [{}])[0]
    checks = [
        ("hooks" in config, check_loop),
        ("pair" in config or "num_shots" in run, _check_fewshot),
        ("pipeline" in config or "subsample" in run, _check_subsampling),
        ("files" in config, _check_parser),
        ("meter_updates" in config or "output" in arrays, _check_metrics),
        (_has(arrays, "cmat/"), _check_evaluator),
        (_has(arrays, "lr/") or "lr_staged" in arrays, _check_schedules),
        (_has(arrays, "W8/"), _check_optimizers),
        (_has(arrays, "epoch0/"), _check_samplers),
        (_has(arrays, "image/"), _check_transforms),
    ]
    chosen = [run for applies, run in checks if applies][:1]
    assert chosen, f"{case.path}: contents fit no kind of engine case"
    chosen[0](case)


def _has(arrays, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in arrays)


def _seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _printed(call, *args, **kwargs):
    """Return a call's result and what it printed."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        result = call(*args, **kwargs)
    return result, output.getvalue()


def _items(labels) -> list[Datum]:
    return [Datum(f"{i}.jpg", int(label), 0, f"class {label}") for i, label in enumerate(labels)]


def _indices(items) -> list[int]:
    return [int(Path(item.impath).stem) for item in items]


def _any_dataset() -> DatasetBase:
    return DatasetBase(train_x=[Datum("0.jpg", 0, 0, "only")])


def _check_fewshot(case: Case) -> None:
    draw = _any_dataset().generate_fewshot_dataset
    pools = {
        name.removeprefix("labels/"): tuple(
            _items(case.arrays[pool]) for pool in (name, f"val_{name}")
        )
        for name in case.arrays
        if name.startswith("labels/")
    }
    for run in case.config.get("runs", []):
        train, val = pools[run["set"]]
        random.seed(run["seed"])
        for split, pool, shots in (
            ("train", train, run["num_shots"]),
            ("val", val, min(run["num_shots"], 4)),
        ):
            drawn = draw(pool, num_shots=shots, repeat=run["repeat"])
            case.compare(f"{split}/{run['key']}", np.asarray(_indices(drawn)))
    pair = case.config.get("pair")
    for name, (train, val) in pools.items() if pair else ():
        random.seed(pair["seed"])
        drawn = draw(train, val, num_shots=pair["num_shots"])
        for split, items in zip(("train", "val"), drawn):
            case.compare(f"pair_{split}/{name}", np.asarray(_indices(items)))


def _check_subsampling(case: Case) -> None:
    from datasets.oxford_pets import OxfordPets

    splits = ("train", "val", "test")
    for run in case.config.get("runs", []):
        pools = [_items(case.arrays[f"{split}_labels/{run['set']}"]) for split in splits]
        kept, text = _printed(OxfordPets.subsample_classes, *pools, subsample=run["subsample"])
        assert text == run["stdout"], f"{run}: printed {text!r}"
        assert DatasetBase.get_num_classes(kept[0]) == run["num_classes"], run
        assert DatasetBase.get_lab2cname(kept[0])[1] == run["classnames"], run
        for split, items in zip(splits, kept):
            _compare_items(case, f"{split}", f"{run['set']}/{run['subsample']}", items)
    pipeline = case.config.get("pipeline")
    names = {key.split("/", 1)[1] for key in case.arrays if key.startswith("train_labels/")}
    draw = _any_dataset().generate_fewshot_dataset
    for name in sorted(names) if pipeline else ():
        train, val, test = (_items(case.arrays[f"{split}_labels/{name}"]) for split in splits)
        random.seed(pipeline["seed"])
        train = draw(train, num_shots=pipeline["num_shots"])
        val = draw(val, num_shots=min(pipeline["num_shots"], 4))
        kept = OxfordPets.subsample_classes(train, val, test, subsample=pipeline["subsample"])
        for split, items in zip(splits, kept):
            _compare_items(case, f"pipeline_{split}", name, items)


def _compare_items(case: Case, kind: str, key: str, items) -> None:
    case.compare(f"{kind}/{key}", np.asarray(_indices(items)))
    case.compare(f"{kind}_newlabels/{key}", np.asarray([item.label for item in items]))


def _check_parser(case: Case) -> None:
    from parse_test_res import main

    with tempfile.TemporaryDirectory() as folder:
        for name, text in case.config["files"].items():
            path = Path(folder, "all", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        for number, run in enumerate(case.config["runs"]):
            root = Path(folder, "all")
            options = run["options"]
            if options.get("multi_exp"):  # sees only the experiments that it prints
                shown = {line.split()[-1] for line in run["stdout"] if line.startswith("Parsing")}
                root = Path(folder, f"run{number}")
                for name in shown:
                    target = root / run["directory"] / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.symlink_to(Path(folder, "all", run["directory"], name))
            arguments = [run["directory"] or ".", "--style", run["flavour"].split(":")[0]]
            for key, value in options.items():
                flag = f"--{key.replace('_', '-')}"
                arguments += [flag] if value is True else [flag, str(value)]
            with _inside(root):
                status, text = _printed(main, arguments)
            lines = [line.replace("./", "") for line in text.splitlines()]
            assert not status, f"{arguments}: exit status {status}"
            assert lines == run["stdout"], f"{arguments}: printed {lines}"
        _compare_averages(case, Path(folder, "all"))


def _compare_averages(case: Case, root: Path) -> None:
    """Compare unrounded means, spreads and intervals."""
    from parse_test_res import legacy_parse
    from tools.results.logs import read_metric
    from tools.results.statistics import dassl_spread, mean

    for run in case.config["runs"]:
        options = dict(run["options"])
        directories = [run["directory"]]
        if options.pop("multi_exp", False):
            directories = [
                os.path.join(run["directory"], line.split()[-1])
                for line in run["stdout"]
                if line.startswith("Parsing")
            ]
        style = run["flavour"].split(":")[0]
        for directory, expected in zip(directories, run["averages"], strict=True):
            _, average = legacy_parse(root / directory, style=style, **options)
            (value,) = expected.values()
            case.compare("average", average, expected=value)
    for name, expected in case.config.get("accuracy_aggregates", {}).items():
        logs = sorted((root / name).glob("*/log.txt"))
        values = [read_metric(log, "accuracy", test_log=False) for log in logs]
        case.compare(f"{name}/mean", mean(values), expected=expected["mean"])
        case.compare(f"{name}/std", dassl_spread(values, ci95=False), expected=expected["std"])
        case.compare(f"{name}/ci95", dassl_spread(values, ci95=True), expected=expected["ci95"])


@contextlib.contextmanager
def _inside(folder: Path):
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _check_metrics(case: Case) -> None:
    config = case.config
    meter = MetricMeter()
    updates, texts = config.get("meter_updates", []), config.get("meter_strings", [])
    for update, text in zip(updates, texts, strict=True):
        meter.update(update)
        assert str(meter) == text
    ema = AverageMeter(ema=True)
    for value, average in zip(
        config.get("ema_updates", []), config.get("ema_avg", []), strict=True
    ):
        ema.update(value)
        case.compare("ema_avg", ema.avg, expected=average)
    if "weighted" in config:
        weighted = AverageMeter()
        for value, count in config["weighted"]["updates"]:
            weighted.update(value, count)
        for name in ("val", "avg", "sum", "count"):
            case.compare(name, getattr(weighted, name), expected=config["weighted"][name])
    if "output" in case.arrays:
        output, target = case.tensor("output"), case.tensor("target")
        case.compare("top1", compute_accuracy(output, target)[0])
        if "top135" in case.arrays:
            case.compare("top135", torch.cat(compute_accuracy(output, target, topk=(1, 3, 5))))
    for metric in ("euclidean", "cosine"):
        if metric in case.arrays:
            distances = compute_distance_matrix(case.tensor("a"), case.tensor("b"), metric)
            case.compare(metric, distances)


def _check_evaluator(case: Case) -> None:
    for run in case.config["runs"]:
        with tempfile.TemporaryDirectory() as folder:
            cfg = get_cfg_default()
            cfg.VERBOSE = False
            cfg.OUTPUT_DIR = folder
            cfg.TEST.PER_CLASS_RESULT = cfg.TEST.COMPUTE_CMAT = True
            names = {label: f"class {label}" for label in range(run["num_classes"])}
            evaluator = build_evaluator(cfg, lab2cname=names)
            logits = case.tensor(f"logits/{run['set']}")
            labels = case.tensor(f"labels/{run['set']}")
            for scores, truth in zip(
                logits.split(run["batch_size"]), labels.split(run["batch_size"])
            ):
                evaluator.process(scores, truth)
            results, text = _printed(evaluator.evaluate)
            matrix = torch.load(Path(folder, "cmat.pt"), weights_only=True)
        assert text.replace(folder, "<OUTPUT_DIR>") == run["stdout"]
        assert list(results) == list(run["results"])
        for name, value in run["results"].items():
            case.compare(name, results[name], expected=value)
        case.compare(f"cmat/{run['set']}", matrix)


def _optim_cfg(values: dict):
    cfg = get_cfg_default()
    for name, value in values.items():
        cfg.OPTIM[name] = tuple(value) if isinstance(value, list) else value
    return cfg.OPTIM


def _rates(optimizer, scheduler, epochs: int) -> np.ndarray:
    """Return the rates in force per epoch and group, (epochs, groups)."""
    rates = []
    for _ in range(epochs):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return np.asarray(rates)


def _check_schedules(case: Case) -> None:
    for number, run in enumerate(case.config.get("runs", [])):
        cfg = _optim_cfg({"NAME": "sgd", **run})
        optimizer = build_optimizer(nn.Linear(2, 2), cfg)
        scheduler = build_lr_scheduler(optimizer, cfg)
        case.compare(f"lr/{number}", _rates(optimizer, scheduler, run["MAX_EPOCH"])[:, 0])
    if "lr_staged" in case.arrays:
        values = {"NAME": "sgd", "STAGED_LR": True, "NEW_LAYERS": ("head",)}
        cfg = _optim_cfg({**values, **case.config["staged"]})
        network = nn.ModuleDict({"body": nn.Linear(2, 3), "head": nn.Linear(3, 2)})
        optimizer = build_optimizer(network, cfg)
        scheduler = build_lr_scheduler(optimizer, cfg)
        case.compare("lr_staged", _rates(optimizer, scheduler, cfg.MAX_EPOCH))


def _check_optimizers(case: Case) -> None:
    for run in case.config["runs"]:
        key = f"{run['name']}/{run['variant']}"
        layer = nn.Linear(*reversed(case.arrays["W"].shape), bias=False)
        layer.weight.data.copy_(case.tensor("W"))
        optimizer = build_optimizer(layer, _optim_cfg({"NAME": run["name"], **run["OPTIM"]}))
        losses = []
        for _ in range(len(case.arrays[f"loss/{key}"])):
            loss = F.mse_loss(layer(case.tensor("X")), case.tensor("Y"))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        case.compare(f"loss/{key}", np.asarray(losses))
        case.compare(f"W8/{key}", layer.weight)


def _check_samplers(case: Case) -> None:
    pairs = zip(case.arrays["labels"].tolist(), case.arrays["domains"].tolist(), strict=True)
    items = [SimpleNamespace(label=label, domain=domain) for label, domain in pairs]
    for run in case.config["runs"]:
        _seed_all(run["seed"])
        sampler = build_sampler(run["sampler"], data_source=items, **run["kwargs"])
        assert len(sampler) == run["length"], run
        for epoch in itertools.count():
            if f"epoch{epoch}/{run['key']}" not in case.arrays:
                break
            case.compare(f"epoch{epoch}/{run['key']}", np.asarray(list(sampler)))


def _check_transforms(case: Case) -> None:
    images = {
        name.removeprefix("image/"): Image.fromarray(case.arrays[name])
        for name in case.arrays
        if name.startswith("image/")
    }
    for run in case.config["runs"]:
        cfg = get_cfg_default()
        cfg.merge_from_other_cfg(type(cfg)({"INPUT": run["INPUT"]}))
        train, train_text = _printed(build_transform, cfg, is_train=True)
        test, test_text = _printed(build_transform, cfg, is_train=False)
        assert train_text.splitlines() == run["stdout_train"]
        assert test_text.splitlines() == run["stdout_test"]
        for name, image in images.items():
            case.compare_pixels(f"test/{run['name']}/{name}", test(image))
            for seed in case.config["seeds"]:
                _seed_all(seed)
                case.compare_pixels(f"train/{run['name']}/{name}/seed{seed}", train(image))
