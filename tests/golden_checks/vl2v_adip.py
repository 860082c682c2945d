"""VL2V-ADiP: both stages, self-distillation, baselines, MIRO, evaluation, and the whole loop."""

import copy
import itertools
import math
import re
from collections import OrderedDict

import numpy as np
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from dassl.config import get_cfg_default
from dassl.optim import build_optimizer
from golden_checks.common import Case
from trainers.common.dg_model import StudentClassifier, TextHead
from trainers.common.step_selection import StepSelection, split_metrics, summarise
from trainers.common.students import Student
from trainers.common.swad import LossValley
from trainers.common.teacher import (
    ClipTeacher,
    class_embeddings,
    prompt_names,
    prompt_templates,
)
from trainers.erm import CrossEntropy
from trainers.miro import MIROObjective, tap_widths
from trainers.naive_kd import NaiveKDObjective
from trainers.vl2v_adip import VL2VObjective

PARTS = {"student": "student.network", "proj": "projection", "head": "head"}


def check(case: Case) -> None:
    if any(name.startswith("zeroshot_weights.") for name in case.arrays):
        _check_prompts(case)
    elif any(name.startswith("logits.env") for name in case.arrays):
        _check_evaluator(case)
    elif "ld" in case.config:
        _check_miro(case)
    elif any(name.startswith("order.") for name in case.arrays):
        _check_pipeline(case)
    elif "algorithms" in case.config:
        _check_baselines(case)
    else:
        _check_stage(case)


# --------------------------------------------------------------------- building blocks
class ConvStudent(nn.Module):
    """The stand-in for ResNet-50: the same module names, one convolution per layer."""

    def __init__(self, arrays: dict[str, np.ndarray], prefix: str, arch: str) -> None:
        super().__init__()
        strides = {int(k): int(s) for k, s in re.findall(r"layer(\d)\([^)]*,s(\d)\)", arch)}
        width = arrays[f"{prefix}conv1.weight"].shape[0]
        self.conv1 = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for k in range(1, 5):
            out, into = arrays[f"{prefix}layer{k}.conv.weight"].shape[:2]
            conv = nn.Conv2d(into, out, 3, stride=strides[k], padding=1, bias=False)
            parts = OrderedDict(conv=conv, bn=nn.BatchNorm2d(out), relu=nn.ReLU())
            setattr(self, f"layer{k}", nn.Sequential(parts))

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean(dim=(2, 3))


def _transformer(arrays: dict[str, np.ndarray], arch: str) -> nn.Module:
    names = [name for name in arrays if name.startswith("student.")]
    shapes = {name.removeprefix("student."): arrays[name].shape for name in names}
    width, _, patch, _ = shapes["patch_embed.proj.weight"]
    extra = 2 if "dist_token" in shapes else 1
    depth = len({key.split(".")[1] for key in shapes if key.startswith("blocks.")})
    heads = int(re.search(r"num_heads=(\d+)", arch).group(1))
    build = VisionTransformerDistilled if extra == 2 else VisionTransformer
    return build(
        img_size=math.isqrt(shapes["pos_embed"][1] - extra) * patch,
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        num_classes=0,
        global_pool="token",
    )


def _load(module: nn.Module, case: Case, prefix: str) -> nn.Module:
    names = [name for name in case.arrays if name.startswith(prefix)]
    state = {name[len(prefix) :]: case.tensor(name) for name in names}
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing), missing
    return module


def _steps(case: Case) -> range:
    """One per stored batch x_step0, x_step1, ..."""
    return range(next(k for k in itertools.count() if f"x_step{k}" not in case.arrays))


def _student(case: Case, prefix: str = "student.") -> Student:
    arch = case.config["student_arch"]
    if f"{prefix}conv1.weight" in case.arrays:
        network = ConvStudent(case.arrays, prefix, arch)
        width = case.arrays[f"{prefix}layer4.conv.weight"].shape[0]
    else:
        network = _transformer(case.arrays, arch)
        width = case.arrays[f"{prefix}cls_token"].shape[-1]
    images = next(name for name in case.arrays if name.startswith("x"))
    return Student(
        _load(network, case, prefix),
        width,
        name="golden",
        input_size=case.arrays[images].shape[-1],
        freeze_bn=case.config.get("freeze_bn", True),
    )


def _clip_student(tower: nn.Module) -> Student:
    """A trainable copy of a CLIP image tower."""
    tower = copy.deepcopy(tower).requires_grad_(True)
    return Student(tower, tower.output_dim, name="clip:golden", input_size=tower.input_resolution)


def _linear(case: Case, name: str) -> nn.Linear:
    shape = case.arrays[f"{name}.weight"].shape
    return _load(nn.Linear(shape[1], shape[0]), case, f"{name}.")


def _teacher(case: Case) -> tuple[ClipTeacher, Tensor]:
    teacher = ClipTeacher(case.load_clip())
    names, template = case.spec["classnames"], case.spec["template"]
    templates = [template] if isinstance(template, str) else template
    style = case.config.get("prompt_style", 2)
    assert tuple(templates or prompt_templates(style)) == prompt_templates(style)
    return teacher, class_embeddings(teacher, prompt_names(style, names), prompt_templates(style))


def _optimizer(case: Case, groups: list[dict]) -> torch.optim.Optimizer:
    cfg, config = get_cfg_default().OPTIM, case.config
    cfg.NAME, cfg.LR = "adam", float(config["lr"])
    cfg.WEIGHT_DECAY = float(config["weight_decay"])
    cfg.ADAM_BETA1, cfg.ADAM_BETA2 = config.get("betas", (0.9, 0.999))
    cfg.EPS = float(config.get("eps", cfg.EPS))
    return build_optimizer(groups, cfg, param_groups=groups)


def _parameter(network: StudentClassifier, name: str) -> nn.Parameter:
    """The parameter that a case calls student.<key>, proj.<key>, head.<key> or the like."""
    part, key = name.split(".", 1)
    part = {"proj512": "proj", "head512": "head", "classifier": "head"}.get(part, part)
    return network.get_parameter(f"{PARTS[part]}.{key}")


# --------------------------------------------------------------------- one kind of case each
def _check_prompts(case: Case) -> None:
    teacher = ClipTeacher(case.load_clip())
    for name in case.arrays:
        _, group, style = name.split(".")
        number = int(style.removeprefix("style"))
        given = case.config["templates"].get(str(number))
        assert given is None or tuple(given) == prompt_templates(number)
        names = prompt_names(number, case.config["class_sets"][group])
        texts = class_embeddings(teacher, names, prompt_templates(number))
        case.compare(name, TextHead(texts, teacher.scale).weight.detach())


def _check_evaluator(case: Case) -> None:
    config = case.config
    domains, target = range(config["n_envs"]), config["test_env"]
    metrics = {}
    for domain in domains:
        for part in ("in", "out"):
            name = f"env{domain}_{part}"
            if name in config["skipped"]:
                continue
            logits, labels = case.tensor(f"logits.{name}"), case.tensor(f"labels.{name}").long()
            metrics[name] = split_metrics(logits, labels)
            case.compare(f"acc.{name}", np.float64(metrics[name]["accuracy"] / 100))
            case.compare(f"loss.{name}", np.float64(metrics[name]["loss"]))
    sources = [metrics[f"env{domain}_out"] for domain in domains if domain != target]
    parts = {part: metrics[f"env{target}_{part}"] for part in ("in", "out")}
    summary = summarise(sources, parts)
    for key in ("test_in", "test_out", "train_out"):
        case.compare(f"summary.{key}", np.float64(summary[key] / 100))
    case.compare("summary.tr_outloss", np.float64(summary["tr_outloss"]))
    inner = [metrics.get(f"env{domain}_in") for domain in domains if domain != target]
    if any(part is None for part in inner):
        case.compare("summary.train_in", np.float64(0))  # never evaluated
    else:
        case.compare("summary.train_in", np.float64(summarise(inner, {})["train_out"] / 100))


def _check_stage(case: Case) -> None:
    """One of the stages, or the white-box setting: losses, gradients, steps, logits."""
    teacher, texts = _teacher(case)
    if "proj.weight" in case.arrays:
        student, projection = _student(case), _linear(case, "proj")
        trained = "projection" if case.config["stage"] == 1 else "student"
    else:
        student = _clip_student(teacher.clip.visual)
        projection, trained = nn.Identity(), "student"
    head = TextHead(texts, teacher.scale)
    dropout = case.config.get("dropout", 0.0)
    network = StudentClassifier(student, projection, head, dropout=dropout).train()
    network.train_only(trained)
    objective = VL2VObjective(teacher, float(case.config["lmd"]))
    optimizer = _optimizer(case, [{"params": network.trained_parameters()}])

    case.compare("zeroshot_weights", network.head.weight.detach())
    _compare_features(case, network, teacher)
    case.compare("logits_eval_init", network.eval()(case.tensor("x_eval")).detach())
    for step in _steps(case):
        losses = objective(network.train(), case.tensor(f"x_step{step}"), _labels(case, step))
        case.compare(f"loss_step{step}", losses["loss"].detach())
        optimizer.zero_grad()
        losses["loss"].backward()
        if step == 0:
            _compare_optional(case, {"loss_img_step0": losses["loss_img"]})
            _compare_optional(case, {"loss_txt_step0": losses["loss_txt"]})
            _compare_gradients(case, network)
        optimizer.step()
    after = f"after{len(_steps(case))}"
    for name in case.arrays:
        if name.startswith(f"{after}."):
            parameter = _parameter(network, name.removeprefix(f"{after}."))
            case.compare(name, parameter.detach())
    case.compare(f"logits_eval_{after}", network.eval()(case.tensor("x_eval")).detach())


def _labels(case: Case, step: int) -> Tensor:
    return case.tensor(f"y_step{step}").long()


@torch.no_grad()
def _compare_features(case: Case, network: StudentClassifier, teacher: ClipTeacher) -> None:
    images, labels = case.tensor("x_step0"), _labels(case, 0)
    _compare_optional(
        case,
        {
            "teacher_img_step0": teacher.encode_image(images),
            "teacher_txt_step0": network.head.weight[labels],
            "student_feat_step0": network.student(images),
            "proj_feat_step0": network.embed(images),
        },
    )


def _compare_optional(case: Case, values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        if name in case.arrays:
            case.compare(name, value.detach())


def _compare_gradients(case: Case, network: StudentClassifier, prefix: str = "grad.") -> None:
    frozen = [p for p in network.parameters() if not p.requires_grad]
    assert all(param.grad is None for param in frozen)
    for name in case.arrays:
        if name.startswith(prefix) and not name.startswith(f"{prefix}b."):
            case.compare(name, _parameter(network, name.removeprefix(prefix)).grad)
    if "grad_norms" in case.arrays and prefix == "grad.":
        order = case.config["param_order"]
        grads = [_parameter(network, f"student.{key}").grad for key in order]
        case.compare("grad_norms", torch.stack([grad.norm() for grad in grads]))


def _check_baselines(case: Case) -> None:
    teacher, texts = _teacher(case)
    images, labels = case.tensor("x"), case.tensor("y").long()
    for name in case.config["algorithms"]:
        network, objective = _baseline(case, name, teacher, texts)
        logits = network.eval()(case.tensor("x_eval"))
        losses = objective(network.train(), images, labels)
        losses["loss"].backward()

        case.compare(f"{name}.logits_eval", logits.detach())
        case.compare(f"{name}.loss", losses["loss"].detach())
        _compare_gradients(case, network, f"{name}.grad.")


def _baseline(case: Case, name: str, teacher: ClipTeacher, texts: Tensor):
    """Network and objective of one row of the class table."""
    if name == "clip_ft":
        student = _clip_student(teacher.clip.visual)
    else:
        student = _student(case)
    text_head = TextHead(texts, teacher.scale)
    projection, head, trained = {
        "clip_ft": lambda: (nn.Identity(), text_head, ("student", "head")),
        "erm": lambda: (nn.Identity(), _linear(case, "head"), ("student", "head")),
        "erm_lp": lambda: (nn.Identity(), _linear(case, "head"), ("head",)),
        "erm_prj": lambda: (
            _linear(case, "proj512"),
            _linear(case, "head512"),
            StudentClassifier.PARTS,
        ),
        "kd_cos": lambda: (nn.Identity(), _linear(case, "head"), ("student", "head")),
        "kd_kl": lambda: (nn.Identity(), _linear(case, "head"), ("student", "head")),
    }.get(name, lambda: (_linear(case, "proj"), text_head, ("student", "projection")))()
    network = StudentClassifier(student, projection, head)
    network.train_only(*trained)
    if name.startswith(("erm", "clip_ft")):
        return network, CrossEntropy()
    weight = float(case.config["lmd"])
    assert case.config["tmp"] == 0.1  # a constant of the official code, and of ours
    return network, NaiveKDObjective(teacher, texts, kind=name, weight=weight)


def _check_miro(case: Case) -> None:
    config = case.config
    if any(name.startswith("oracle.") for name in case.arrays):
        oracle, student = _student(case, "oracle."), _student(case)
    else:  # CLIP's own image tower
        oracle, student = (_clip_student(case.load_clip().visual) for _ in range(2))
    network = StudentClassifier(student, nn.Identity(), _linear(case, "head")).train()
    network.train_only("student", "head")
    objective = MIROObjective(oracle, tap_widths(oracle), weight=float(config["ld"]))
    rate = float(config["lr"]) * float(config["lr_mult"])
    groups = [{"params": network.trained_parameters()}, {"params": [*objective.b], "lr": rate}]
    optimizer = _optimizer(case, groups)

    for i, b in enumerate(objective.b):
        case.compare(f"b_init.{i}", b.detach()[0])
    for step in _steps(case):
        losses = objective(network, case.tensor(f"x_step{step}"), _labels(case, step))
        case.compare(f"loss_step{step}", losses["loss"].detach())
        case.compare(f"reg_loss_step{step}", losses["loss_reg"])
        optimizer.zero_grad()
        losses["loss"].backward()
        if step == 0:
            _compare_gradients(case, network)
            for i, b in enumerate(objective.b):
                case.compare(f"grad.b.{i}", b.grad)
        optimizer.step()
    after = f"after{len(_steps(case))}"
    for name in case.arrays:
        if name.startswith(f"{after}.b."):
            case.compare(name, objective.b[int(name.split(".")[-1])].detach())
        elif name.startswith(f"{after}."):
            case.compare(name, _parameter(network, name.removeprefix(f"{after}.")).detach())
    case.compare(f"logits_eval_{after}", network.eval()(case.tensor("x_eval")).detach())


# --------------------------------------------------------------------- the whole loop
def _check_pipeline(case: Case) -> None:
    teacher, texts = _teacher(case)
    head = TextHead(texts, teacher.scale)
    network = StudentClassifier(_student(case), _linear(case, "proj"), head)
    for stage, part in (("align", "projection"), ("distill", "student")):
        network.train_only(part)
        best = _run_stage(case, stage, network, teacher)
        network.load_state_dict(best)


def _run_stage(case: Case, stage: str, network: StudentClassifier, teacher: ClipTeacher) -> dict:
    """Align or distill on the stored batches; returns the best checkpoint."""
    config = case.config
    valley = LossValley(config["n_converge"], config["n_tolerance"], config["tolerance_ratio"])
    kept = StepSelection(
        model_save=config["model_save"][stage],
        valley=valley,
        reset=config["segment_reset"][stage],
    )
    objective = VL2VObjective(teacher, float(config["lmd"]))
    optimizer = _optimizer(case, [{"params": network.trained_parameters()}])
    order, records, best, losses = case.tensor(f"order.{stage}"), [], None, []
    for step in range(config["n_steps"]):
        images, labels = _batch(case, order[step])
        loss = objective(network.train(), images, labels)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        kept.after_step(network.trained_parameters(), step)
        if step % config["checkpoint_freq"]:
            continue
        record = _evaluate(case, network) | {"mean_loss": float(np.mean(losses))}
        records.append(record)
        losses = []
        decision = kept.after_evaluation(
            step, train_out=record["train_out"], loss=record["tr_outloss"]
        )
        if decision.save:
            best = copy.deepcopy(network.state_dict())
        if decision.report:
            reported = record["test_in"]
        if decision.stop:
            break

    for key in ("train_out", "tr_outloss", "test_in", "mean_loss"):
        scale = 1.0 if "loss" in key else 0.01
        values = np.array([record[key] * scale for record in records])
        case.compare(f"{stage}.{key}_f64", values)
    case.compare(f"{stage}.best_step", np.int64(kept.saved_step))
    for name in case.arrays:
        if name.startswith(f"{stage}.best."):
            key = name.removeprefix(f"{stage}.best.")
            part, rest = ("projection", key[5:]) if key.startswith("proj.") else (None, key)
            case.compare(name, best[f"{part or 'student.network'}.{rest}"])
    _compare_swad(case, stage, network, kept, reported)
    return best


def _compare_swad(
    case: Case, stage: str, network: StudentClassifier, kept: StepSelection, reported: float
) -> None:
    segment = kept.swad()
    averaged = copy.deepcopy(network)
    averaged.load_trained(segment.params)
    bounds = np.array([segment.start, segment.end, segment.count], dtype=np.int64)
    case.compare(f"{stage}.swad_range", bounds)
    with torch.no_grad():
        case.compare(f"{stage}.swad_logits_probe", averaged.eval()(case.tensor("probe")))
    record = _evaluate(case, averaged)
    rows = np.array([reported, record["test_in"], record["train_out"]]) / 100
    case.compare(f"{stage}.reported_f64", rows)


def _batch(case: Case, rows: Tensor) -> tuple[Tensor, Tensor]:
    """One batch of every training domain, concatenated in domain order."""
    images, labels = [], []
    for domain, picks in zip(case.config["train_envs"], rows.long()):
        images.append(case.tensor(f"x.env{domain}_in")[picks])
        labels.append(case.tensor(f"y.env{domain}_in")[picks])
    return torch.cat(images), torch.cat(labels).long()


@torch.no_grad()
def _evaluate(case: Case, network: StudentClassifier) -> dict[str, float]:
    network.eval()

    def metrics(name: str) -> dict[str, float]:
        return split_metrics(network(case.tensor(f"x.{name}")), case.tensor(f"y.{name}").long())

    sources = [metrics(f"env{domain}_out") for domain in case.config["train_envs"]]
    return summarise(sources, {"in": metrics(f"env{case.config['test_env']}_in")})
