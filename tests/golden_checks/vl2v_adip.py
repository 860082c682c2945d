"""VL2V-ADiP: both stages, self-distillation, baselines, MIRO, evaluation, and the whole loop.

Every case but the class texts alone runs in the registered trainer, over the case's tensors.
"""

import itertools
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dassl.engine import TrainerX
from dassl.engine.steps.selection import split_metrics, summarise
from dassl.modeling.heads import Student
from dassl.utils import load_checkpoint
from golden_checks import runs
from golden_checks.common import Case
from golden_checks.shipped import Watched
from golden_checks.students import clip_student, load, stored_student
from trainers.common.teachers.teacher import REPLACED_STYLES, ClipTeacher, prompt_templates

PARTS = {"student": "student.network", "proj": "projection", "head": "head"}
PARTS |= {"proj512": "projection", "head512": "head", "classifier": "head"}
STAGES = {1: ("VL2VAlign", "ALIGN"), 2: ("VL2VDistill", "DISTILL")}
NAIVE = ("img_only", "txt_only", "one_stage", "kd_cos", "kd_kl")


def check(case: Case) -> None:
    if any(name.startswith("zeroshot_weights.") for name in case.arrays):
        _check_prompts(case)
    elif any(name.startswith("logits.env") for name in case.arrays):
        _check_evaluator(case)
    else:
        with tempfile.TemporaryDirectory() as folder:
            _check_run(case, Path(folder))


def _check_run(case: Case, output: Path) -> None:
    if "ld" in case.config:
        _check_miro(case, output)
    elif any(name.startswith("order.") for name in case.arrays):
        _check_pipeline(case, output)
    elif "algorithms" in case.config:
        for name in case.config["algorithms"]:
            _check_baseline(case, name, output / name)
    else:
        _check_stage(case, output)


# --------------------------------------------------------------------- building blocks
class Steps(Watched):
    """A step-based trainer that is watched; MIRO learns variances ``b`` beside the network."""

    @property
    def learned(self) -> dict[str, nn.Parameter]:
        objective = self.trainer.objective
        modules = [self.trainer.network, *([objective] if isinstance(objective, nn.Module) else [])]
        named = (pair for module in modules for pair in module.named_parameters())
        return {name: p for name, p in named if p.requires_grad}


def _key(name: str) -> str:
    """The parameter that a case calls student.<key>, proj.<key>, head.<key>, b.<i> or the like."""
    part, key = name.split(".", 1)
    return f"{PARTS.get(part, part)}.{key}"


def _template_settings(style: int, given: str | list[str] | None) -> dict:
    """The prompt style, and the case's templates where they are not the style's."""
    templates = (given,) if isinstance(given, str) else tuple(given or ())
    own = templates in ((), prompt_templates(style))
    if own:
        return {"TRAINER.VL2V.PROMPT_STYLE": style, "DATASET.TEMPLATES": ()}
    style = style if style in REPLACED_STYLES else 2  # which has the same class names
    return {"TRAINER.VL2V.PROMPT_STYLE": style, "DATASET.TEMPLATES": templates}


def _teacher_settings(case: Case) -> dict:
    style = case.config.get("prompt_style", 2)
    settings = _template_settings(style, case.spec.get("template"))
    if "lmd" in case.config:
        settings["TRAINER.VL2V.LAMBDA"] = float(case.config["lmd"])
    return settings


def _short_run(case: Case) -> dict:
    """As many steps as the case stores, evaluated after the first and the last."""
    config, last = case.config, max(len(_stored_steps(case)) - 1, 1)
    freeze_bn = config.get("freeze_bn", True)
    return {
        "STEPS.N": last,
        "STEPS.FREQ": last if len(_stored_steps(case)) > 1 else last + 1,
        "MODEL.DROPOUT": float(config.get("dropout", 0.0)),
        "MODEL.FREEZE_BN": freeze_bn,
        **({} if freeze_bn else {"SWAD.ENABLED": False}),
        **runs.optim_settings(config),
    }


def _stored_steps(case: Case) -> list[str]:
    """ "_step0", "_step1", ... of the stored batches; [""] where there is one, called x."""
    if "x" in case.arrays:
        return [""]
    names = (f"_step{k}" for k in itertools.count())
    return list(itertools.takewhile(lambda name: f"x{name}" in case.arrays, names))


def _batches(case: Case) -> list[dict]:
    return [
        {"img": case.tensor(f"x{step}"), "label": case.tensor(f"y{step}")}
        for step in _stored_steps(case)
    ]


def _build(case: Case, name: str, output: Path, settings: dict, student: Student, **more):
    """A trainer over the case's batches; x_eval, whose labels nobody knows, is every split."""
    images = case.tensor("x_eval")
    rows = [{"img": images, "label": torch.zeros(len(images))}]
    count = len(case.spec["classnames"]) if "classnames" in case.spec else None
    classnames = case.spec.get("classnames") or _numbered(case.config["num_classes"])
    assert count is None or count == len(classnames)
    parts = {"val": rows, "test": rows, "student": student, **more}
    return runs.build(name, output, settings, classnames, _batches(case), **parts)


def _numbered(count: int) -> list[str]:
    return [f"class {k}" for k in range(count)]


def _logits(trainer: TrainerX, name: str = "test_in") -> Tensor:
    trainer.set_model_mode("eval")
    return trainer.evaluation.logits(trainer.network, name)[0].detach()


def _compare_prefixed(case: Case, prefix: str, value) -> None:
    for name in case.arrays:
        if name.startswith(prefix):
            case.compare(name, value(name.removeprefix(prefix)))


# --------------------------------------------------------------------- texts, evaluation
def _check_prompts(case: Case) -> None:
    pixel = [{"img": torch.zeros(1, 3, 1, 1), "label": torch.zeros(1)}]
    teacher = ClipTeacher(case.load_clip())
    for name in case.arrays:
        _, group, style = name.split(".")
        number = int(style.removeprefix("style"))
        settings = _template_settings(number, case.config["templates"].get(str(number)))
        settings["TRAINER.VL2V.MODEL_SAVE.ALIGN"] = 1
        networks = {"student": Student(nn.Flatten(), 3, input_size=1), "teacher": teacher}
        classnames = case.config["class_sets"][group]
        settings |= {"STEPS.N": 1, "STEPS.FREQ": 2}
        trainer = runs.build(
            "VL2VAlign", "unused", settings, classnames, pixel, val=pixel, **networks
        )
        case.compare(name, trainer.network.head.weight.detach())


def _check_evaluator(case: Case) -> None:
    """The stored logits are the images, and the network hands them through."""
    config, target = case.config, case.config["test_env"]
    classes, domains = config["num_classes"], range(config["n_envs"])

    def rows(name: str, domain: int) -> dict:
        labels = case.tensor(f"labels.{name}")
        logits = case.tensor(f"logits.{name}")
        return {"img": logits, "label": labels, "domain": torch.full_like(labels, domain)}

    sources = [domain for domain in domains if domain != target]
    held_out = [rows(f"env{domain}_out", domain) for domain in domains]
    trainer = runs.build(
        "LP",
        "unused",
        {
            "STEPS.N": 1,
            "STEPS.FREQ": 2,
            "STEPS.RECORDS": "all",
            "DATALOADER.TEST.BATCH_SIZE": config["test_batchsize"],
        },
        _numbered(classes),
        [_joined([rows(f"env{domain}_in", domain) for domain in sources])],
        val=held_out,
        test=[rows(f"env{target}_in", target)],
        student=Student(nn.Identity(), classes, input_size=1),
    )
    with torch.no_grad():
        trainer.network.head.weight.copy_(torch.eye(classes))
        trainer.network.head.bias.zero_()
    record = trainer.evaluate_sources() | trainer.evaluate_target(report=True)
    for domain in sources:
        case.compare(f"acc.env{domain}_out", record[f"accuracy/domain{domain}_out"] / 100)
        case.compare(f"loss.env{domain}_out", record[f"loss/domain{domain}_out"])
    for part in ("in", "out"):
        case.compare(f"acc.env{target}_{part}", record[f"test_{part}"] / 100)
        case.compare(f"loss.env{target}_{part}", record[f"loss/test_{part}"])
    for key in ("test_in", "test_out", "train_out"):
        case.compare(f"summary.{key}", record[key] / 100)
    case.compare("summary.tr_outloss", record["tr_outloss"])
    _check_inner(case, [f"env{domain}_in" for domain in sources])


def _check_inner(case: Case, names: list[str]) -> None:
    """Training images: no run here evaluates them, the official code only when it is asked."""
    metrics = {}
    for name in set(names) - set(case.config["skipped"]):
        labels = case.tensor(f"labels.{name}").long()
        metrics[name] = split_metrics(case.tensor(f"logits.{name}"), labels)
        case.compare(f"acc.{name}", metrics[name]["accuracy"] / 100)
        case.compare(f"loss.{name}", metrics[name]["loss"])
    is_whole = len(metrics) == len(names)
    mean = summarise([metrics[name] for name in names], {})["train_out"] if is_whole else 0.0
    case.compare("summary.train_in", mean / 100)


def _joined(batches: list[dict]) -> dict:
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


# --------------------------------------------------------------------- a few steps
def _check_stage(case: Case, output: Path) -> None:
    """One of the stages, or the white-box setting: losses, gradients, steps, logits."""
    teacher = ClipTeacher(case.load_clip())
    settings = _teacher_settings(case) | _short_run(case)
    if "proj.weight" in case.arrays:
        name, stage = STAGES[case.config["stage"]]
        settings[f"TRAINER.VL2V.MODEL_SAVE.{stage}"] = 1
        student = stored_student(case)
    else:
        name, student = "VL2VSD", clip_student(teacher.clip.visual)
        settings["STEPS.MODEL_SAVE"] = 1
    if name == "VL2VDistill":
        settings["MODEL.INIT_WEIGHTS"] = str(_first_stage(case, settings, output / "align"))
    trainer = _build(case, name, output / "run", settings, student, teacher=teacher)
    if name == "VL2VAlign":
        load(trainer.network.projection, case, "proj.")

    case.compare("zeroshot_weights", trainer.network.head.weight.detach())
    _compare_features(case, trainer)
    case.compare("logits_eval_init", _logits(trainer))
    run = Steps(trainer)
    trainer.train()
    _compare_steps(case, run)
    for kind in ("img", "txt"):
        case.compare(f"loss_{kind}_step0", run.losses[0][f"loss_{kind}"])


def _first_stage(case: Case, settings: dict, output: Path) -> Path:
    """A file as stage 1 leaves it, with the case's student and projection."""
    settings = settings | {"TRAINER.VL2V.MODEL_SAVE.ALIGN": 1}
    teacher = ClipTeacher(case.load_clip())
    trainer = _build(case, "VL2VAlign", output, settings, stored_student(case), teacher=teacher)
    load(trainer.network.projection, case, "proj.")
    output.mkdir(parents=True)
    trainer.save_weights("best", train_out=0.0)
    return output / "best"


def _compare_steps(case: Case, run: Steps) -> None:
    """Losses of every step, gradients of the first, parameters and logits after the last."""
    for step, losses in zip(_stored_steps(case), run.losses):
        case.compare(f"loss{step}", losses["loss"])
    _compare_gradients(case, run)
    for count, values in enumerate(run.parameters, start=1):
        _compare_prefixed(case, f"after{count}.", lambda key, values=values: values[_key(key)])
    case.compare(f"logits_eval_after{len(run.losses)}", _logits(run.trainer))


def _compare_gradients(case: Case, run: Steps, prefix: str = "grad.") -> None:
    first = run.gradients[0]
    _compare_prefixed(case, prefix, lambda key: first[_key(key)])
    if "grad_norms" in case.arrays:
        order = (_key(f"student.{key}") for key in case.config["param_order"])
        case.compare("grad_norms", torch.stack([first[key].norm() for key in order]))


@torch.no_grad()
def _compare_features(case: Case, trainer: TrainerX) -> None:
    images, labels = case.tensor("x_step0"), case.tensor("y_step0").long()
    network = trainer.network
    case.compare("teacher_img_step0", trainer.teacher.encode_image(images))
    case.compare("teacher_txt_step0", network.head.weight[labels])
    case.compare("student_feat_step0", network.student(images))
    case.compare("proj_feat_step0", network.embed(images))


def _check_baseline(case: Case, name: str, output: Path) -> None:
    """One row of the class table: logits, and the loss and gradients of one step."""
    teacher = ClipTeacher(case.load_clip())
    student = clip_student(teacher.clip.visual) if name == "clip_ft" else stored_student(case)
    trainer_name, settings = _baseline(case, name)
    settings = settings | _short_run(case) | {"STEPS.MODEL_SAVE": 0}
    networks = {} if trainer_name == "LP" else {"teacher": teacher}
    trainer = _build(case, trainer_name, output, settings, student, **networks)
    size = "512" if name == "erm_prj" else ""
    for part, layer in (("proj", trainer.network.projection), ("head", trainer.network.head)):
        if isinstance(layer, nn.Linear):
            load(layer, case, f"{part}{size}.")

    case.compare(f"{name}.logits_eval", _logits(trainer))
    run = Steps(trainer)
    trainer.train()
    case.compare(f"{name}.loss", run.losses[0]["loss"])
    _compare_gradients(case, run, f"{name}.grad.")


def _baseline(case: Case, name: str) -> tuple[str, dict]:
    """Trainer and settings of a row."""
    if name in NAIVE:
        settings = {"TRAINER.NAIVEKD.LOSS": name}
        if "tmp" in case.config:
            settings["TRAINER.NAIVEKD.TEMPERATURE"] = float(case.config["tmp"])
        return "NaiveKD", settings | _teacher_settings(case)
    if name == "erm_prj":
        width = len(case.arrays["proj512.weight"])
        head = {"TRAINER.ERM.HEAD": "projected", "TRAINER.ERM.PROJECTED_WIDTH": width}
        return "ERM", head
    if name == "clip_ft":
        texts = _teacher_settings(case)
        style = texts["TRAINER.VL2V.PROMPT_STYLE"]
        head = {"TRAINER.ERM.HEAD": "text", "TRAINER.ERM.PROMPT_STYLE": style}
        return "ERM", head | {"DATASET.TEMPLATES": texts["DATASET.TEMPLATES"]}
    return {"erm": "ERM", "erm_lp": "LP"}[name], {}


def _check_miro(case: Case, output: Path) -> None:
    config = case.config
    has_oracle = any(name.startswith("oracle.") for name in case.arrays)
    if has_oracle:
        oracle = stored_student(case, "oracle.")
    else:  # CLIP's own image tower
        oracle = clip_student(case.load_clip().visual)
    settings = _short_run(case) | {
        "TRAINER.MIRO.LD": float(config["ld"]),
        "TRAINER.MIRO.LR_MULT": float(config["lr_mult"]),
        "TRAINER.MIRO.VAR_INIT": float(config.get("var_init", 0.1)),
        "TRAINER.MIRO.VAR_EPS": float(config.get("eps_var", 1e-5)),
        "STEPS.MODEL_SAVE": 1,
    }
    trainer = _build(case, "MIRO", output, settings, oracle)
    load(trainer.network.head, case, "head.")
    if has_oracle:
        load(trainer.network.student.network, case, "student.")
    for i, b in enumerate(trainer.objective.b):
        case.compare(f"b_init.{i}", b.detach()[0].clone())
    run = Steps(trainer)
    trainer.train()
    for step, losses in zip(_stored_steps(case), run.losses):
        case.compare(f"reg_loss{step}", losses["loss_reg"])
    _compare_steps(case, run)


# --------------------------------------------------------------------- the whole loop
def _check_pipeline(case: Case, output: Path) -> None:
    start = {}
    for stage, name in (("align", "VL2VAlign"), ("distill", "VL2VDistill")):
        trainer = _stage_trainer(case, stage, name, output / stage, start)
        if stage == "align":
            load(trainer.network.projection, case, "proj.")
        trainer.train()
        _compare_records(case, stage, trainer)
        _compare_best(case, stage, output / stage)
        _compare_swad(case, stage, trainer)
        start = {"MODEL.INIT_WEIGHTS": str(output / stage / "best")}


def _stage_trainer(case: Case, stage: str, name: str, output: Path, start: dict) -> TrainerX:
    """Align or distill on the stored batches of all training domains."""
    config, target = case.config, case.config["test_env"]
    settings = {
        **_teacher_settings(case),
        **runs.optim_settings(config),
        "STEPS.N": config["n_steps"] - 1,
        "STEPS.FREQ": config["checkpoint_freq"],
        "STEPS.RECORDS": "all",
        f"TRAINER.VL2V.MODEL_SAVE.{stage.upper()}": config["model_save"][stage],
        f"SWAD.RESET.{stage.upper()}": config["segment_reset"][stage],
        "SWAD.N_CONVERGE": config["n_converge"],
        "SWAD.N_TOLERANCE": config["n_tolerance"],
        "SWAD.TOLERANCE": float(config["tolerance_ratio"]),
        "DATALOADER.TEST.BATCH_SIZE": config["test_batchsize"],
        **start,
    }
    domains = config["train_envs"]
    return runs.build(
        name,
        output,
        settings,
        case.spec["classnames"],
        [
            _joined([_images(case, f"env{d}_in", d, picks) for d, picks in zip(domains, rows)])
            for rows in case.tensor(f"order.{stage}").long()
        ],
        val=[_images(case, f"env{domain}_out", domain) for domain in (*domains, target)],
        test=[_images(case, f"env{target}_in", target)],
        student=stored_student(case),
        teacher=ClipTeacher(case.load_clip()),
    )


def _images(case: Case, name: str, domain: int, rows: Tensor | slice = slice(None)) -> dict:
    """Images of one part of a domain as a batch."""
    labels = case.tensor(f"y.{name}").long()[rows]
    domains = torch.full_like(labels, domain)
    return {"img": case.tensor(f"x.{name}")[rows], "label": labels, "domain": domains}


def _compare_records(case: Case, stage: str, trainer: TrainerX) -> None:
    """What every evaluation wrote down."""
    lines = runs.metrics_lines(trainer.output_dir, "tr_outloss")
    for key in ("train_out", "tr_outloss", "test_in", "mean_loss"):
        scale = 1.0 if "loss" in key else 0.01
        values = [line["loss" if key == "mean_loss" else key] * scale for line in lines]
        case.compare(f"{stage}.{key}_f64", np.array(values))


def _compare_best(case: Case, stage: str, output: Path) -> None:
    """The checkpoint that the next stage starts from."""
    best = load_checkpoint(str(output / "best"))
    case.compare(f"{stage}.best_step", np.int64(best["step"]))

    def stored(key: str) -> Tensor:
        return best["state_dict"][_key(key if key.startswith("proj.") else f"student.{key}")]

    _compare_prefixed(case, f"{stage}.best.", stored)


def _compare_swad(case: Case, stage: str, trainer: TrainerX) -> None:
    """What the run reports and deploys: SWAD's weights, from the file that predicts."""
    results = trainer.results
    bounds = [results["SWAD"][key] for key in ("start", "end", "segments")]
    case.compare(f"{stage}.swad_range", np.array(bounds, dtype=np.int64))
    names = ("training-domain validation", "SWAD", "SWAD (inD)")
    reported = [results[name]["accuracy"] / 100 for name in names]
    case.compare(f"{stage}.reported_f64", np.array(reported))
    trainer.load_model(trainer.output_dir)
    trainer.set_model_mode("eval")
    with torch.no_grad():
        probe = trainer.model_inference(case.tensor("probe"))
    case.compare(f"{stage}.swad_logits_probe", probe)
    assert trainer.test() == results["SWAD"]["accuracy"]
