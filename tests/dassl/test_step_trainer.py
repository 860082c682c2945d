"""Step-based runs: streams, evaluation, files, resume, stages."""

import errno
import json
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from step_world import accuracies, make_domains, step_args, step_config, step_run

import datasets  # noqa: F401
import trainers  # noqa: F401
from dassl.config import get_cfg_default
from dassl.data.datasets import Datum
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.engine.command.cli import make_config, make_parser
from dassl.engine.command.run import run
from dassl.engine.steps import domains as dg_data
from dassl.engine.steps.domains import DomainBatches
from dassl.engine.steps.evaluation import StepEvaluation
from dassl.engine.steps.trainer import StepTrainer
from dassl.utils import load_checkpoint
from dassl.utils.places import explain


@pytest.fixture(scope="module")
def domains(tmp_path_factory):
    return make_domains(tmp_path_factory.mktemp("domains"))


def read_lines(folder):
    """The evaluations in metrics.jsonl."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if "tr_outloss" in line]


def test_the_default_output_folder_of_a_domain_left_out_names_it():
    words = ["--trainer", "ERM", "--dataset", "toy_domains", "--target-domains", "Real World"]

    cfg = make_config(make_parser().parse_args([*words, "--seed", "0"]))

    assert Path(cfg.OUTPUT_DIR) == Path("output/lodo/toy_domains/ERM/toy/seed0/te_real_world")


def test_a_draw_is_a_function_of_seed_stage_target_domain_and_step():
    rows = [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9]]
    batches = DomainBatches(rows, 3, key=(1, "align", "sketch"))
    batches.set_steps(5, 8)

    whole = list(batches)
    batches.set_steps(6, 7)
    alone = list(batches)

    assert alone[0] == whole[1]
    assert whole[0] != whole[1]
    assert all(row in rows[i // 3] for draw in whole for i, (row, _) in enumerate(draw))
    others = [(2, "align", "sketch"), (1, "distill", "sketch"), (1, "align", "photo")]
    for key in others:
        assert DomainBatches(rows, 3, key=key).draw(6) != whole[1]


def test_epochs_are_the_stretches_between_evaluations(domains, tmp_path):
    step_run(domains, tmp_path, "ERM", "STEPS.N", "14", "STEPS.FREQ", "4")

    assert [line["step"] for line in read_lines(tmp_path)] == [0, 4, 8, 12]


def test_erm_learns_colours_on_the_domain_left_out(domains, tmp_path):
    words = ["STEPS.N", "41", "STEPS.FREQ", "10", "OPTIM.LR", "3e-3", "INPUT.TRANSFORMS"]
    results = step_run(domains, tmp_path, "ERM", *words, "('random_flip','normalize')")

    assert results["metrics"]["test"]["accuracy"] > 60
    assert results["selection"] == "source_val"
    assert results["metrics"]["training-domain validation"]["accuracy"] == pytest.approx(
        results["metrics"]["test"]["accuracy"]
    )


def test_the_target_is_evaluated_only_where_the_protocol_needs_it(domains, tmp_path):
    step_run(domains, tmp_path / "needed", "ERM")
    step_run(domains, tmp_path / "all", "ERM", "STEPS.RECORDS", "all")

    needed, every = read_lines(tmp_path / "needed"), read_lines(tmp_path / "all")
    assert all("test_in" in line and "test_out" in line for line in every)
    best = -1.0
    for line, full in zip(needed, every):
        assert ("test_in" in line) == (line["train_out"] > best)
        best = max(best, line["train_out"])
        assert line["train_out"] == full["train_out"]
        assert line.get("test_in", full["test_in"]) == full["test_in"]


@pytest.mark.parametrize("trainer", ["ERM", "MIRO", "VL2VAlign"])
def test_a_run_that_was_killed_ends_with_the_same_bits(domains, tmp_path, monkeypatch, trainer):
    monkeypatch.setenv("VLTUNE_RESUME_SECONDS", "0")
    words = ["SWAD.ENABLED", "True", "SWAD.N_CONVERGE", "1", "SWAD.N_TOLERANCE", "2"]
    whole = step_run(domains, tmp_path / "whole", trainer, *words)

    class Killed(Exception):
        pass

    cls = type(build_trainer(step_config(domains, tmp_path / "other", trainer, *words)))
    original = cls.before_epoch

    def die(self):
        if self.epoch == 3:
            raise Killed
        original(self)

    monkeypatch.setattr(cls, "before_epoch", die)
    with pytest.raises(Killed):
        step_run(domains, tmp_path / "killed", trainer, *words)
    monkeypatch.setattr(cls, "before_epoch", original)
    resumed = step_run(domains, tmp_path / "killed", trainer, *words)

    assert accuracies(resumed) == accuracies(whole)
    for name in ("best", "swad"):
        states = [
            load_checkpoint(str(tmp_path / run / name))["state_dict"] for run in ("whole", "killed")
        ]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_run_that_was_killed_after_its_last_step_is_only_finished(domains, tmp_path, monkeypatch):
    words = ["SWAD.ENABLED", "True", "STEPS.N", "7"]
    whole = step_run(domains, tmp_path / "whole", "LP", *words)

    class Killed(Exception):
        pass

    def die(self):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(StepTrainer, "record_results", die)
        with pytest.raises(Killed):
            step_run(domains, tmp_path / "killed", "LP", *words)
    resumed = step_run(domains, tmp_path / "killed", "LP", *words)

    assert resumed["metrics"] == whole["metrics"]
    steps = [load_checkpoint(str(tmp_path / run / "swad"))["step"] for run in ("whole", "killed")]
    assert steps == [6, 6]


def test_the_features_of_a_frozen_student_are_computed_once(domains, tmp_path):
    trainer = build_trainer(step_config(domains, tmp_path, "LP", "STEPS.RECORDS", "all"))
    trainer.train()

    sizes = [len(part) for part in trainer.evaluation.parts.values()]
    assert trainer.evaluation.encoded_images == sum(sizes)


def test_a_student_that_learns_is_never_read_from_stale_features(domains, tmp_path):
    trainer = build_trainer(step_config(domains, tmp_path, "ERM"))
    trainer.train()

    with torch.no_grad():
        fresh = trainer.evaluation.logits(trainer.network.eval(), "test_in")[0]
        trainer.network.head.weight.mul_(2.0)
        changed = trainer.evaluation.logits(trainer.network, "test_in")[0]
    assert trainer.evaluation.features == {}
    assert not torch.equal(fresh, changed)


def test_batchnorm_statistics_never_change_but_its_affine_weights_learn(domains, tmp_path):
    trainer = build_trainer(step_config(domains, tmp_path, "ERM"))
    before = {k: v.clone() for k, v in trainer.network.state_dict().items()}

    trainer.train()

    after = trainer.network.state_dict()
    prefix = "student.network.bn1."
    assert torch.equal(after[f"{prefix}running_mean"], before[f"{prefix}running_mean"])
    assert torch.equal(after[f"{prefix}running_var"], before[f"{prefix}running_var"])
    assert not torch.equal(after[f"{prefix}weight"], before[f"{prefix}weight"])


def test_a_frozen_student_whose_statistics_move_is_encoded_at_every_evaluation(domains, tmp_path):
    trainer = build_trainer(step_config(domains, tmp_path, "LP", "MODEL.FREEZE_BN", "False"))
    before = trainer.network.student.network.bn1.running_mean.clone()

    trainer.train()

    assert not torch.equal(trainer.network.student.network.bn1.running_mean, before)
    assert trainer.evaluation.features == {}


def test_swad_with_moving_statistics_is_refused(domains, tmp_path):
    words = ["MODEL.FREEZE_BN", "False", "SWAD.ENABLED", "True"]
    with pytest.raises(ValueError, match="FREEZE_BN"):
        build_trainer(step_config(domains, tmp_path, "ERM", *words))


def test_a_source_domain_without_held_out_images_is_refused(tmp_path):
    root = make_domains(tmp_path / "few", per_class=2)
    for image in sorted((root / "night").glob("*/01.png")):
        image.unlink()

    with pytest.raises(ValueError, match="night have no held-out images"):
        build_trainer(step_config(root, tmp_path / "run", "ERM"))


def test_a_best_checkpoint_before_model_save_is_explained(domains, tmp_path):
    trainer = build_trainer(step_config(domains, tmp_path, "LP", "STEPS.MODEL_SAVE", "12"))
    trainer.kept.best, trainer.kept.reported_step = 101.0, 3  # never matched again

    with pytest.raises(RuntimeError, match=r"at step 3, before STEPS.MODEL_SAVE \(12\)"):
        trainer.train()


def test_a_run_that_would_end_before_anything_is_saved_does_not_start(domains, tmp_path):
    with pytest.raises(ValueError, match="STEPS.MODEL_SAVE is 13, but the last step is 12"):
        step_run(domains, tmp_path, "LP", "STEPS.MODEL_SAVE", "13")
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    "trainer, first, key, value, message",
    [
        ("LPFT", "lp", "STEPS.MODEL_SAVE", "0", "STEPS.MODEL_SAVE is 0, so that no checkpoint"),
        ("LPFT", "lp", "STEPS.MODEL_SAVE", "-1", "STEPS.MODEL_SAVE is -1; expected"),
        ("LPFT", "lp", "TRAINER.ERM.HEAD", "text", "the student must be a CLIP"),
        ("VL2VADiP", "align", "TRAINER.VL2V.MODEL_SAVE.DISTILL", "-5", "MODEL_SAVE.DISTILL is -5"),
        ("VL2VADiP", "align", "SWAD.RESET.DISTILL", "never", "is 'never'; expected"),
    ],
)
def test_wrong_settings_of_any_stage_are_found_before_the_first_starts(
    domains, tmp_path, trainer, first, key, value, message
):
    with pytest.raises(ValueError, match=message):
        step_run(domains, tmp_path, trainer, key, value)
    assert not (tmp_path / first).exists()
    kind = TRAINER_REGISTRY.get(trainer)
    with pytest.raises(ValueError, match=message):  # without a trainer, as before a protocol
        kind.check_cfg(step_config(domains, tmp_path, trainer, key, value))


def test_a_second_stage_that_could_save_nothing_stops_the_first(domains, tmp_path):
    words = ("TRAINER.VL2V.MODEL_SAVE.DISTILL", "13", "SWAD.ENABLED", "False")
    with pytest.raises(ValueError, match="MODEL_SAVE.DISTILL is 13, but the last step is 12"):
        step_run(domains, tmp_path, "VL2VADiP", *words)
    assert not (tmp_path / "align").exists()


@pytest.mark.parametrize("trainer", ["LP", "LPFT"])
def test_bad_images_of_the_target_are_left_out_of_both_of_its_parts(tmp_path, trainer):
    root = make_domains(tmp_path / "domains")
    dataset = build_trainer(step_config(root, tmp_path / "look", "LP")).dm.dataset
    for items in (dataset.test, dataset.test_out):
        Path(items[0].impath).write_bytes(b"no image")
    words = ("STEPS.RECORDS", "all", "STEPS.N", "4", "DATALOADER.SKIP_BAD_IMAGES", "True")

    results = step_run(root, tmp_path / "run", trainer, *words)

    assert results["metrics"]["test"]["accuracy"] >= 0
    line = read_lines(tmp_path / "run" / ("lp" if trainer == "LPFT" else ""))[0]
    assert line["test_out"] * 5 / 100 == pytest.approx(round(line["test_out"] * 5 / 100))


def test_lp_then_ft_hands_the_best_head_on_and_skips_a_finished_stage(domains, tmp_path):
    results = step_run(domains, tmp_path, "LPFT")

    start = load_checkpoint(str(tmp_path / "lp" / "best"))["state_dict"]
    assert (tmp_path / "ft" / "results.json").is_file()
    assert "lp: training-domain validation" in results["metrics"]
    trainer = build_trainer(
        step_config(domains, tmp_path / "x", "ERM", "MODEL.INIT_WEIGHTS", str(tmp_path / "lp"))
    )
    assert torch.equal(trainer.network.head.weight.detach(), start["head.weight"])
    stamp = (tmp_path / "lp" / "results.json").stat().st_mtime_ns
    (tmp_path / "results.json").unlink()
    again = step_run(domains, tmp_path, "LPFT")
    assert again["metrics"] == results["metrics"]
    assert again["trainable_parameters"] == results["trainable_parameters"] > 0
    seconds = [
        json.loads((tmp_path / stage / "results.json").read_text())["seconds"]["total"]
        for stage in ("lp", "ft")
    ]
    assert again["seconds"]["total"] >= sum(seconds)
    assert (tmp_path / "lp" / "results.json").stat().st_mtime_ns == stamp


def test_a_stage_of_another_target_domain_is_refused(domains, tmp_path):
    step_run(domains, tmp_path / "lp", "LP")

    cfg = step_config(domains, tmp_path / "ft", "ERM", "MODEL.INIT_WEIGHTS", str(tmp_path / "lp"))
    cfg.defrost()
    cfg.DATASET.TARGET_DOMAINS = ("night",)
    with pytest.raises(ValueError, match="target_domains"):
        build_trainer(cfg)


def test_cutmix_mixes_and_still_depends_on_the_seed_alone(domains, tmp_path):
    short = ["STEPS.N", "4"]
    words = [*short, "STEPS.CUTMIX_BETA", "1.0", "STEPS.CUTMIX_PROB", "0.9"]
    first = step_run(domains, tmp_path / "a", "ERM", *words)
    second = step_run(domains, tmp_path / "b", "ERM", *words)
    plain = step_run(domains, tmp_path / "c", "ERM", *short)

    losses = [[x["loss"] for x in read_lines(tmp_path / run)] for run in ("a", "b", "c")]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]
    assert first["metrics"] == second["metrics"]
    assert plain["finished"]


@pytest.mark.parametrize(
    "trainer, words",
    [
        ("ERM", ()),
        ("MIRO", ()),
        ("VL2VSD", ("MODEL.BACKBONE.NAME", "clip:toy/ViT", "TRAINER.VL2V.TEACHER", "toy/ViT")),
        ("VL2VAlign", ()),
        ("NaiveKD", ("TRAINER.NAIVEKD.LOSS", "kd_kl")),
        ("NaiveKD", ("TRAINER.NAIVEKD.LOSS", "one_stage")),
    ],
)
def test_cutmix_asks_once_for_both_labels_and_the_loss_is_that_of_two_passes(
    domains, tmp_path, trainer, words
):
    on = ("STEPS.CUTMIX_BETA", "1.0", "STEPS.CUTMIX_PROB", "1.0", *words)
    if trainer == "VL2VSD":
        on += ("MODEL.BACKBONE.PRETRAINED", "True")
    run = build_trainer(step_config(domains, tmp_path, trainer, *on))
    run.batch_idx = 0
    run.network.eval()
    size = run.student.input_size
    images = torch.randn(5, 3, size, size, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 1, 0])
    seed = dg_data.stable_seed(*run.seed_key, "cutmix", run.step)
    mixed = run.cutmix.draw(images, labels, torch.Generator().manual_seed(seed))
    assert 0 < mixed.share < 1
    first, second = (
        run.objective(run.network, mixed.images, y)["loss"] for y in (mixed.first, mixed.second)
    )
    queries = run.teacher.queries if hasattr(run, "teacher") else None
    before = queries.images if queries else 0

    loss = run.losses(images, labels)["loss"]

    assert torch.equal(loss, mixed.share * first + (1.0 - mixed.share) * second)
    assert queries is None or queries.images - before == 5


def test_without_a_test_swads_weights_are_deployed_all_the_same(domains, tmp_path):
    words = ("SWAD.ENABLED", "True", "STEPS.N", "7")
    step_run(domains, tmp_path / "tested", "ERM", *words)
    results = step_run(domains, tmp_path / "run", "ERM", *words, "TEST.NO_TEST", "True")

    assert results["metrics"] == {}
    for name in ("swad", "network/model-best.pth.tar"):
        states = [
            load_checkpoint(str(tmp_path / run / name))["state_dict"] for run in ("tested", "run")
        ]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_training_images_that_are_not_normalised_are_refused(domains, tmp_path):
    with pytest.raises(ValueError, match="without normalize"):
        build_trainer(step_config(domains, tmp_path, "ERM", "INPUT.TRANSFORMS", "['random_flip']"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DATALOADER.TRAIN_X.SAMPLER", "RandomDomainSampler"),
        ("DATALOADER.K_TRANSFORMS", "2"),
        ("INPUT.NO_TRANSFORM", "True"),
    ],
)
def test_other_batches_than_the_protocols_are_refused_not_ignored(domains, tmp_path, key, value):
    with pytest.raises(ValueError, match=f"{key} is {value}, but ERM draws"):
        build_trainer(step_config(domains, tmp_path, "ERM", key, value))


def test_images_that_are_not_square_are_refused(domains, tmp_path):
    with pytest.raises(ValueError, match="square"):
        build_trainer(step_config(domains, tmp_path, "ERM", "INPUT.SIZE", "(32, 40)"))


def test_the_number_of_workers_changes_nothing(domains, tmp_path):
    step_run(domains, tmp_path / "none", "LP", "STEPS.N", "4")
    step_run(domains, tmp_path / "two", "LP", "STEPS.N", "4", "DATALOADER.NUM_WORKERS", "2")

    losses = [[x["loss"] for x in read_lines(tmp_path / run)] for run in ("none", "two")]
    assert losses[0] == losses[1]
    assert not [child for child in multiprocessing.active_children() if child.daemon]


def test_bytes_that_are_normalised_on_the_device_train_the_same_student(domains, tmp_path):
    losses = []
    for value in ("False", "True"):
        words = ("STEPS.N", "2", "STEPS.FREQ", "1", "INPUT.NORMALIZE_ON_DEVICE", value)
        step_run(domains, tmp_path / value, "ERM", *words)
        losses.append([line["tr_outloss"] for line in read_lines(tmp_path / value)])

    assert losses[0] and losses[0] == losses[1]


def test_views_that_are_made_on_the_device_train_nearly_the_same_student(domains, tmp_path):
    losses = []
    for value, workers in (("False", "0"), ("True", "0"), ("True", "2")):
        words = ("STEPS.N", "2", "STEPS.FREQ", "1", "INPUT.AUGMENT_ON_DEVICE", value)
        folder = tmp_path / f"{value}_{workers}"
        step_run(domains, folder, "ERM", *words, "DATALOADER.NUM_WORKERS", workers)
        losses.append([line["tr_outloss"] for line in read_lines(folder)])

    ordinary, drawn, by_workers = losses
    assert drawn == by_workers and drawn != ordinary
    assert drawn == pytest.approx(ordinary, rel=0.02)


def test_evaluation_loads_what_is_deployed(domains, tmp_path):
    trained = step_run(domains, tmp_path, "ERM", "SWAD.ENABLED", "True")
    trainer = build_trainer(step_config(domains, tmp_path / "eval", "ERM"))

    trainer.load_model(str(tmp_path))
    accuracy = trainer.test()

    assert accuracy == pytest.approx(trained["metrics"]["test"]["accuracy"])


def test_a_staged_run_is_evaluated_by_the_command_line(domains, tmp_path):
    trained = step_run(domains, tmp_path / "run", "LPFT", "STEPS.N", "4")
    words = step_args(domains, tmp_path / "eval", "LPFT", "STEPS.N", "4")
    args = make_parser().parse_args(["--eval-only", "--model-dir", str(tmp_path / "run"), *words])

    results = run(args, make_config(args))

    assert results["metrics"]["test"] == trained["metrics"]["test"]
    assert results["trainable_parameters"] == trained["trainable_parameters"]


def test_a_single_checkpoint_file_is_evaluated(domains, tmp_path):
    trained = step_run(domains, tmp_path / "run", "LP")
    content = load_checkpoint(str(tmp_path / "run" / "best"))
    state = {
        key.replace("student.", "featurizer.").replace("head.", "classifier."): value
        for key, value in content["state_dict"].items()
    }
    torch.save({"model_dict": state, "test_envs": [2]}, tmp_path / "TE2_best.pth")
    words = step_args(domains, tmp_path / "eval", "LP")
    args = make_parser().parse_args(
        ["--eval-only", "--model-dir", str(tmp_path / "TE2_best.pth"), *words]
    )

    results = run(args, make_config(args))

    assert results["metrics"]["test"] == trained["metrics"]["test"]


def test_a_foreign_selection_rule_is_refused(domains, tmp_path):
    with pytest.raises(ValueError, match="source_val"):
        build_trainer(step_config(domains, tmp_path, "ERM", "TEST.SELECT_ON", "test"))


def count_reads(monkeypatch):
    """The paths that are decoded from now on."""
    seen = []
    original = dg_data.read_image

    def read(path):
        seen.append(path)
        return original(path)

    monkeypatch.setattr(dg_data, "read_image", read)
    return seen


def test_resized_images_are_read_once_and_again_when_a_file_changes(tmp_path, monkeypatch):
    folder = make_domains(tmp_path / "domains", per_class=2)
    paths = sorted(str(path) for path in (folder / "night").rglob("*.png"))
    items = [Datum(impath=path, label=0) for path in paths]
    seen = count_reads(monkeypatch)

    def pixels():
        images = dg_data.ResizedImages(items, size=(8, 12))
        return torch.cat(list(images.batches(4)))

    first, second = pixels(), pixels()
    assert len(seen) == len(items)
    assert torch.equal(first, second)
    assert first.shape == (len(items), 3, 8, 12)

    make_domains(tmp_path / "other", per_class=2)
    (tmp_path / "other" / "paper" / "red" / "00.png").replace(paths[0])
    third = pixels()
    assert not torch.equal(first[0], third[0])
    assert torch.equal(first[1:], third[1:])


def test_a_disk_too_small_for_resized_images_is_named_before_one_is_written(tmp_path, monkeypatch):
    folder = make_domains(tmp_path / "domains", per_class=1)
    paths = sorted(str(path) for path in folder.rglob("*.png"))
    images = dg_data.ResizedImages([Datum(impath=p, label=0) for p in paths], size=(8, 8))
    seen = count_reads(monkeypatch)

    def full(handle, start, length):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError) as caught:
        list(images.batches(4))

    assert explain(caught.value).startswith(f"No space is left for {images.path}.")
    assert seen == [] and not list(images.path.parent.glob(f"*{images.path.stem}*"))


def test_a_truncated_store_of_resized_images_is_written_anew(tmp_path):
    folder = make_domains(tmp_path / "domains", per_class=1)
    paths = sorted(str(path) for path in folder.rglob("*.png"))
    images = dg_data.ResizedImages([Datum(impath=p, label=0) for p in paths], size=(8, 8))
    whole = torch.cat(list(images.batches(4)))

    data = images.path.read_bytes()
    images.path.write_bytes(data[: len(data) // 2])

    assert torch.equal(torch.cat(list(images.batches(4))), whole)


def test_a_dataset_without_domains_is_refused_with_what_to_give():
    cfg = get_cfg_default()
    cfg.TRAINER.NAME = "ERM"

    with pytest.raises(ValueError, match="list has no domains, but ERM .* --target-domains NAME"):
        StepEvaluation.from_dataset([], cfg, device="cpu")
