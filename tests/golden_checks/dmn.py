"""DMN: text features, memories, read-outs, training, and whole streams with eviction and ties.

All of it in the registered trainer, over images or over CLIP's features.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from golden_checks import streams
from golden_checks.common import Case
from golden_checks.shipped import Shipped, batch, in_epochs
from golden_checks.stored import StoredClip
from trainers.common.testtime.confident_views import confident_prediction
from trainers.common.testtime.stream import Step
from trainers.common.text.templates import fill
from trainers.dmn import DualMemory

NAMES = ("query", "key", "value", "output", "text")
LR_ATOL = 1e-3  # of offsets after training, times the learning rate: tolerance_notes


def check(case: Case) -> None:
    if "positions" in case.config:
        check_positions(case)
        return
    with tempfile.TemporaryDirectory() as folder:
        run = _shipped(case, Path(folder), rule="last")
        _compare_memories(case, run)
        steps = _watch_steps(run)
        _train_or_test(case, run)
        _compare_stream(case, run, steps)
        _compare_images(case, run)
        _compare_search(case, _shipped(case, Path(folder), rule="test"))


# ----------------------------------------------------------------- the trainer of a case
def _setting(case: Case) -> str:
    has_offsets = any(f"{name}_offset" in case.arrays for name in NAMES)
    if "train_features" in case.arrays or has_offsets:
        return "few_shot"
    return "training_free" if _has_shots(case) else "zero_shot"


def _has_shots(case: Case) -> bool:
    return "shot_features" in case.arrays or "shot_images" in case.arrays


def _shipped(case: Case, folder: Path, *, rule: str) -> Shipped:
    """The trainer; offsets that the case holds are its initial ones."""
    views = case.tensor("images" if "images" in case.arrays else "stream_features").float()
    settings = {
        "STREAM_SEED": streams.SEED,
        "N_VIEWS": views.shape[1],
        "TEST.SELECT_ON": rule,
        **_text_settings(case, folder),
    }
    run = _build(case, streams.streamed(views, case.tensor("labels")), settings)
    given = {f"{name}_offset": f"{name}_offset" for name in NAMES}
    run.start_at({n: case.tensor(n) for n in given if n in run.learned and n in case.arrays})
    return run


def _build(
    case: Case, test: dict[str, Tensor], settings: dict[str, Any], batches: Any = None
) -> Shipped:
    parts: dict[str, Any] = {"shots": [_shots(case)]} if _has_shots(case) else {}
    classnames = case.spec.get("classnames")
    if not case.spec.get("backbone"):
        features, scale = case.tensor("text_prompt_features"), case.config["logit_scale"]
        parts["clip"] = StoredClip(features, scale)
        classnames = parts["clip"].classnames
    setting = settings.get("SETTING") or _setting(case)
    shared = settings.get("SHARED_PARAM", case.config.get("shared_param") is True)
    return Shipped(
        case,
        "DMN",
        batches or _batches(case),
        test=test,
        classnames=classnames,
        parts=parts,
        variant=setting,
        **{
            "SETTING": setting,
            "shared_param": None,
            "SHARED_PARAM": shared,
            "DATASET.NUM_SHOTS": _shot_count(case),
            "VERBOSE": False,
            **settings,
        },
    )


def _shot_count(case: Case) -> int:
    """K, of (C, K, ...) shots."""
    if not _has_shots(case):
        return 0
    name = "shot_images" if "shot_images" in case.arrays else "shot_features"
    return case.arrays[name].shape[1]


def _shots(case: Case) -> dict[str, Tensor]:
    """(C * K, ...) shots, their first view un-augmented, the others stored views."""
    if "shot_images" in case.arrays:
        shots = case.tensor("shot_images").float()
        shots = shots if shots.ndim == 6 else shots[:, :, None]
    else:
        shots = case.tensor("shot_features")
    labels = torch.arange(len(shots)).repeat_interleave(shots.shape[1])
    flat = shots.flatten(0, 1)
    return {"img": flat[:, 0], "views": flat[:, 1:], "label": labels}


def _batches(case: Case):
    """The training batches (E, B, ...) of every epoch."""
    if "train_features" not in case.arrays:
        return None
    features, labels = case.tensor("train_features"), case.tensor("train_labels")
    rows = [batch(*pair) for pair in zip(features.flatten(0, 1), labels.flatten(0, 1))]
    return in_epochs(rows, features.shape[1])


def _text_settings(case: Case, folder: Path) -> dict[str, Any]:
    """Where the sentences of a class come from: templates, then a CuPL file for the rest."""
    if not case.spec.get("backbone"):
        sentences = case.arrays["text_prompt_features"].shape[1]
        templates = StoredClip(torch.zeros(1, sentences, 1)).templates
        return {"TEXT_PROMPT": "tip", "DATASET.TEMPLATES": templates}
    templates, prompts = case.templates, case.config["prompts"]
    rest = {}
    for name in case.spec["classnames"]:
        filled = [fill(template, name) for template in templates]
        assert prompts[name][: len(templates)] == filled
        rest[name.replace("_", " ")] = prompts[name][len(templates) :]
    file = folder / "cupl.json"
    file.write_text(json.dumps(rest))
    kind = "tip_cupl" if any(rest.values()) else "tip"
    return {"TEXT_PROMPT": kind, "CUPL_FILE": str(file), "DATASET.TEMPLATES": templates}


# ----------------------------------------------------------------- read-outs with offsets
def check_positions(case: Case) -> None:
    """One training step per entry, from the case's offsets; the read-outs before it."""
    images, labels = case.tensor("image_features"), case.tensor("labels").long()
    test = {"img": images, "label": labels}
    entries = sorted({name.split("__")[0] for name in case.arrays if "__" in name})
    for entry in entries:
        settings = _text_settings(case, Path()) | {
            "SETTING": "few_shot",
            "POSITION": entry.removesuffix("_shared"),
            "SHARED_PARAM": entry.endswith("_shared"),
            "N_VIEWS": 1,
            "SELECTION_P": 1.0,
            "OPTIM.MAX_EPOCH": 1,
            "TEST.SELECT_ON": "last",
            "TEST.NO_TEST": True,
        }
        run = _build(case, test, settings, [batch(images, labels)])
        run.start_at({name: case.tensor(name) for name in run.learned})
        _compare_readouts(case, entry, run, F.normalize(images, dim=-1))
        _compare_step(case, entry, run, images, labels)


@torch.no_grad()
def _compare_readouts(case: Case, entry: str, run: Shipped, queries: Tensor) -> None:
    method, scale = run.method, run.clip.logit_scale.exp()
    case.compare(f"{entry}__static_logits", method.static_logits(queries, scale))
    case.compare(f"{entry}__text_logits", scale * queries @ method.text_features().t())
    run.trainer.begin_stream()
    memory = run.trainer.memory
    memory.load_state(
        {
            "features": case.tensor("feature_mem"),
            "entropies": torch.zeros(memory.entropies.shape),
            "counts": case.tensor("counts"),
        }
    )
    case.compare(f"{entry}__dynamic_prob", memory.read(queries).softmax(dim=-1))


def _compare_step(case: Case, entry: str, run: Shipped, images: Tensor, labels: Tensor) -> None:
    if not run.learned:
        case.compare(f"{entry}__loss", run.method.losses(run.clip, images, labels)["loss"])
        return
    run.train(1)
    case.compare(f"{entry}__loss", run.losses[0]["loss"])
    for name, gradient in run.gradients[0].items():
        case.compare(f"{entry}__grad_{name}", gradient)


# ----------------------------------------------------------------- training
def _compare_memories(case: Case, run: Shipped) -> None:
    method: DualMemory = run.method
    case.compare("text_feat", method.text)
    if "image_features" in case.arrays:
        case.compare("image_features", _views(run))
    if "static_mem" in case.arrays:
        case.compare("static_mem", method.static_slots)
    if "dynamic_fixed" in case.arrays:
        case.compare("dynamic_fixed", method.fixed_slots)
    if "channel_index_sorted" in case.arrays:
        case.compare("channel_index_sorted", method.channels.nonzero().flatten())


def _train_or_test(case: Case, run: Shipped) -> None:
    """The run; where it trains, every step of it."""
    if "train_features" not in case.arrays:
        run.test()
        return
    config = case.config
    run.train(config["epochs"])
    case.compare("lr_used", [groups[0] for groups in run.rates])
    for name, key in (("static", "loss_static"), ("text", "loss_text"), ("total", "loss")):
        if key in run.losses[0]:
            case.compare(f"loss_{name}", [step[key] for step in run.losses])
    atol = LR_ATOL * config["lr"]
    for name in run.learned:
        case.compare(f"grad1_{name}", run.gradients[0][name])
        for step, values in enumerate(run.parameters, start=1):
            case.compare(f"after{step}_{name}", values[name], atol=atol)
        case.compare(f"final_{name}", run.learned[name], atol=atol)


# ----------------------------------------------------------------- streams
def _views(run: Shipped) -> Tensor:
    """(N, V, D) unit rows in the order of the stream."""
    items = run.trainer.dm.dataset.test
    views = run.trainer.test_views(items)
    order = streams.in_order(torch.arange(len(items)))
    return F.normalize(torch.cat([raw for _, raw in views.chunks(order)]), dim=-1)


def _watch_steps(run: Shipped) -> list[Step]:
    """What the trainer will answer, chunk by chunk."""
    answers, steps = [], run.trainer.steps

    def watched(views: Tensor) -> Step:
        answers.append(steps(views))
        return answers[-1]

    run.trainer.steps = watched
    return answers


def _values(step: Step) -> dict[str, Tensor]:
    names = {"text": "p_text", "dynamic": "p_dyn", "static": "p_static"}
    return {**{names[key]: rows for key, rows in step.scores.items()}, **step.notes}


def _compare_all(case: Case, values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        if name in case.arrays:
            case.compare(name, value)


def _compare_stream(case: Case, run: Shipped, steps: list[Step]) -> None:
    """The evaluation: every classifier, the fused answer, what is reported, the memory left."""
    memory, results = run.trainer.memory, run.trainer.results
    _compare_all(case, _values(Step.join(steps)))
    case.compare("p_fused", run.logits)
    case.compare("pred_fused", run.logits.argmax(dim=-1))
    case.compare("final_feature_mem", memory.features)
    case.compare("counts", memory.counts, case.arrays["counts"][-1])
    case.compare("entropy_mem", memory.entropies, case.arrays["entropy_mem"][-1])
    if "component_acc" in case.arrays:
        names = ("text", "dynamic", "static")
        case.compare(
            "component_acc", [results.get(n, {"accuracy": 0.0})["accuracy"] for n in names]
        )


@torch.no_grad()
def _compare_images(case: Case, run: Shipped) -> None:
    """The same stream image by image, with what it keeps to itself."""
    trainer, rows = run.trainer, {}
    trainer.begin_stream()
    for views in _views(run):
        memory = trainer.memory
        parts = views, trainer.text, memory.scale, trainer.confident, trainer.repeats
        found = confident_prediction(*parts)
        values = {"selected": found.selected, "init_pred": found.mean}
        values |= {name: row[0] for name, row in _values(trainer.steps(views[None])).items()}
        values |= {"counts": memory.counts.clone(), "entropy_mem": memory.entropies.clone()}
        for name, value in values.items():
            rows.setdefault(name, []).append(value)
    _compare_all(case, {name: torch.stack(values) for name, values in rows.items()})
    case.compare("final_feature_mem", memory.features)


def _compare_search(case: Case, run: Shipped) -> None:
    """The rule "test": weights searched on the finished stream are those that are reported."""
    run.train(case.config["epochs"]) if "train_features" in case.arrays else run.test()
    accuracy = run.trainer.results["test"]["accuracy"]
    case.compare("search_result", [accuracy, *run.method.alpha.tolist()])
