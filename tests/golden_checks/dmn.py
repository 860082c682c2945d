"""DMN: text features, memories, read-outs, training, and whole streams with eviction and ties."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from dassl.config import get_cfg_default
from dassl.optim import build_lr_scheduler, build_optimizer
from golden_checks.common import Case
from trainers.common.confidence import confident_count, confident_prediction, repeated_rows
from trainers.common.cupl import class_means, sentence_classifier
from trainers.common.fusion import fuse, search_weights
from trainers.common.readout import important_channels
from trainers.dmn import DualMemory

NAMES = ("query", "key", "value", "output", "text")


def check(case: Case) -> None:
    if "positions" in case.config:
        check_positions(case)
    else:
        check_stream(case)


def _backbone(case: Case):
    """The case's CLIP, or an object that carries its multiplier."""
    if case.spec.get("backbone"):
        return case.load_clip()
    return SimpleNamespace(logit_scale=torch.tensor(float(case.config["logit_scale"])).log())


def _inputs(case: Case, clip) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Text features (C, D), shots (C, K, A, D), views (N, V, D); unit rows."""
    shots = views = None
    if "text_prompt_features" in case.arrays:
        raw = case.tensor("text_prompt_features")
        text = class_means(raw.flatten(0, 1), [raw.shape[1]] * len(raw))
        if "shot_features" in case.arrays:
            shots = F.normalize(case.tensor("shot_features"), dim=-1)
        if "stream_features" in case.arrays:
            views = F.normalize(case.tensor("stream_features"), dim=-1)
        return text, shots, views
    prompts = case.config["prompts"]
    text = sentence_classifier(clip, [prompts[name] for name in case.spec["classnames"]])
    with torch.no_grad():
        views = _encode(clip, case.tensor("images"))
        if "shot_images" in case.arrays:
            shots = _encode(clip, case.tensor("shot_images"))
            shots = shots if shots.dim() == 4 else shots[:, :, None]
    return text, shots, views


def _encode(clip, images: Tensor) -> Tensor:
    """(..., 3, R, R) -> (..., D) unit rows."""
    raw = clip.encode_image(images.float().flatten(0, -4))
    return F.normalize(raw, dim=-1).unflatten(0, images.shape[:-3])


def _method(case: Case, text: Tensor, shots: Tensor | None, **settings) -> DualMemory:
    config = case.config
    return DualMemory(
        text,
        shots,
        beta=config["beta"],
        alpha=config.get("alpha", (1.0, 1.0, 0.0)),
        channels=config.get("num_important_channel", 0),
        channel_weight=config.get("lambda_ape", 0.3),
        **settings,
    )


# ----------------------------------------------------------------- read-outs with offsets
def check_positions(case: Case) -> None:
    clip = _backbone(case)
    text, shots, _ = _inputs(case, clip)
    raw, labels = case.tensor("image_features"), case.tensor("labels")
    queries = F.normalize(raw, dim=-1)
    entries = sorted({name.split("__")[0] for name in case.arrays if "__" in name})
    for entry in entries:
        shared = entry.endswith("_shared")
        position = entry.removesuffix("_shared")
        method = _method(case, text, shots, position=position, shared=shared)
        for name in method.offset_names:
            getattr(method, f"{name}_offset").data = case.tensor(f"{name}_offset")
        scale = clip.logit_scale.exp()
        case.compare(f"{entry}__static_logits", method.static_logits(queries, scale))
        case.compare(f"{entry}__text_logits", scale * queries @ method.text_features().t())
        memory = method.new_memory(case.config["memory_size"], float(scale.detach()))
        memory.load_state(
            {
                "features": case.tensor("feature_mem"),
                "entropies": torch.zeros(memory.entropies.shape),
                "counts": case.tensor("counts"),
            }
        )
        with torch.no_grad():
            probabilities = memory.read(queries).softmax(dim=-1)
        case.compare(f"{entry}__dynamic_prob", probabilities)
        loss = method.losses(clip, raw, labels)["loss"]
        case.compare(f"{entry}__loss", loss)
        if method.offset_names:
            loss.backward()
        for name in NAMES:
            if (offset := method.offset(name)) is not None:
                case.compare(f"{entry}__grad_{name}_offset", offset.grad)


# ----------------------------------------------------------------- training
def train(case: Case, clip, method: DualMemory) -> None:
    config = case.config
    features, labels = case.tensor("train_features"), case.tensor("train_labels")
    epochs, batches = features.shape[:2]
    cfg = get_cfg_default().OPTIM
    cfg.NAME, cfg.LR, cfg.WEIGHT_DECAY = config["optimizer"], config["lr"], config["weight_decay"]
    cfg.ADAM_BETA1, cfg.ADAM_BETA2 = config.get("betas", (cfg.ADAM_BETA1, cfg.ADAM_BETA2))
    cfg.EPS, cfg.MOMENTUM = config.get("eps", cfg.EPS), config.get("momentum", cfg.MOMENTUM)
    cfg.ETA_MIN, cfg.MAX_EPOCH = config["eta_min"], config["epochs"]
    cfg.LR_SCHEDULER, cfg.STEP_PER = "cosine", "batch"
    optimizer = build_optimizer(method, cfg)
    scheduler = build_lr_scheduler(optimizer, cfg, steps_per_epoch=batches)
    record = {"lr_used": [], "loss_static": [], "loss_text": [], "loss_total": []}
    atol = 1e-3 * config["lr"]
    for step in range(epochs * batches):
        epoch, batch = divmod(step, batches)
        losses = method.losses(clip, features[epoch, batch], labels[epoch, batch])
        optimizer.zero_grad()
        losses["loss"].backward()
        if step == 0:
            _compare_offsets(case, "grad1", method, use_grad=True)
        record["lr_used"].append(optimizer.param_groups[0]["lr"])
        record["loss_static"].append(losses["loss_static"].item())
        if "loss_text" in losses:  # only where a text offset is learned
            record["loss_text"].append(losses["loss_text"].item())
        record["loss_total"].append(losses["loss"].item())
        optimizer.step()
        scheduler.step()
        if step == 2:
            _compare_offsets(case, "after3", method, atol=atol)
    for name, values in record.items():
        if values:
            case.compare(name, values)
    _compare_offsets(case, "final", method, atol=atol)


def _compare_offsets(
    case: Case, prefix: str, method: DualMemory, *, use_grad: bool = False, atol=None
) -> None:
    for name in NAMES:
        offset = method.offset(name)  # where tensors are shared, key and value are the query's
        if offset is not None:
            case.compare(f"{prefix}_{name}_offset", offset.grad if use_grad else offset, atol=atol)


# ----------------------------------------------------------------- streams
@torch.no_grad()
def _stream(case: Case, method: DualMemory, views: Tensor, scale: float) -> dict[str, Tensor]:
    """Image by image; every quantity that a case may hold."""
    memory = method.new_memory(case.config["memory_size"], scale)
    count = confident_count(views.shape[1], case.config["selection_p"], key="config")
    text = method.text_features()
    repeats = repeated_rows(text)
    rows: dict[str, list[Tensor]] = {}
    for image in views:
        found = confident_prediction(image, text, scale, count, repeats)
        label, entropy = int(found.label), float(found.entropy)
        dynamic, slot = memory.step(label, entropy, image[0])
        values = {
            "selected": found.selected,
            "init_pred": found.mean,
            "pseudo_label": found.label,
            "entropy": found.entropy,
            "slot": torch.tensor(slot),
            "counts": memory.counts.clone(),
            "entropy_mem": memory.entropies.clone(),
            "p_text": found.text,
            "p_dyn": dynamic.softmax(dim=-1),
        }
        if method.static_slots is not None:
            logits = method.static_logits(image[None, 0], scale)
            values["p_static"] = logits.softmax(dim=-1)[0]
        for name, value in values.items():
            rows.setdefault(name, []).append(value)
    record = {name: torch.stack(values) for name, values in rows.items()}
    record["final_feature_mem"] = memory.features
    return record


def _check_replay(case: Case, method: DualMemory, record: dict, views: Tensor, scale: float):
    """The replay of the whole stream in chunks gives the same writes and probabilities."""
    memory = method.new_memory(case.config["memory_size"], scale)
    labels, entropies = record["pseudo_label"], record["entropy"]
    logits, slots = [], []
    for rows in torch.arange(len(views)).split(7):
        part = memory.replay(labels[rows].tolist(), entropies[rows].tolist(), views[rows, 0])
        logits.append(part[0])
        slots += part[1]
    case.compare("p_dyn", torch.cat(logits).softmax(dim=-1))
    case.compare("slot", slots)
    case.compare("final_feature_mem", memory.features)


def check_stream(case: Case) -> None:
    config, clip = case.config, _backbone(case)
    text, shots, views = _inputs(case, clip)
    given = [name for name in NAMES if f"{name}_offset" in case.arrays]
    is_tuned = "train_features" in case.arrays or given
    position = config["position"] if is_tuned else "none"
    shared = config.get("shared_param") is True
    method = _method(case, text, shots, position=position, shared=shared)
    for name in set(given) & set(method.offset_names):
        getattr(method, f"{name}_offset").data = case.tensor(f"{name}_offset")
    scale = float(clip.logit_scale.detach().exp())
    case.compare("text_feat", text)
    if "image_features" in case.arrays:
        case.compare("image_features", views)
    if "static_mem" in case.arrays:
        case.compare("static_mem", method.static_slots)
    if "dynamic_fixed" in case.arrays:
        case.compare("dynamic_fixed", method.fixed_slots)
    if "channel_index_sorted" in case.arrays:
        count, weight = config["num_important_channel"], config["lambda_ape"]
        case.compare("channel_index_sorted", important_channels(text, count, weight))
    if "train_features" in case.arrays:
        train(case, clip, method)

    record = _stream(case, method, views, scale)
    static = record.get("p_static")
    fused = fuse((record["p_text"], record["p_dyn"], static), config["alpha"])
    record |= {"p_fused": fused, "pred_fused": fused.argmax(dim=-1)}
    for name, value in record.items():
        if name in case.arrays:
            case.compare(name, value)
    with torch.no_grad():
        _check_replay(case, method, record, views, scale)

    labels = case.tensor("labels")
    accuracy, weights = search_weights(record["p_text"], record["p_dyn"], static, labels)
    case.compare("search_result", [accuracy, *weights])
    if "component_acc" in case.arrays:
        parts = [record["p_text"], record["p_dyn"], static]
        hits = [0.0 if p is None else 100 * (p.argmax(-1) == labels).double().mean() for p in parts]
        case.compare("component_acc", [float(h) for h in hits])
