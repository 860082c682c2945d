"""What docs/compatibility.md says about code of other repositories: a test for each row."""

import importlib
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from dropped import dropped
from few_shot_world import make_trainer, make_world, tiny_clip
from PIL import Image
from yacs.config import CfgNode as CN

import trainers
from clip import build_model, tokenize
from clip.two_towers import IMAGE_MEAN, IMAGE_STD
from dassl.config import get_cfg_default
from dassl.engine import build_trainer
from dassl.engine.command.cli import make_config, make_parser
from dassl.engine.command.run import run
from dassl.engine.updating.subspace import project_gradients
from golden_checks.tiny_clip import torch_state_dict
from trainers.common.text.templates import full_templates, select_templates

REPOSITORY = Path(trainers.__file__).resolve().parents[1]
IDIOM = REPOSITORY / "tests" / "idiom"
FAST = ("OPTIM.MAX_EPOCH", "1", "DATALOADER.NUM_WORKERS", "0", "INPUT.SIZE", "(32, 32)")
OWN_CLIP = "keep its clip/ folder beside their train.py"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Data in class folders, and the YAML of the dataset that reads them."""
    root = tmp_path_factory.mktemp("compatibility")
    rng = np.random.RandomState(0)
    for split, count in (("train", 3), ("test", 2)):
        for label, name in enumerate(("circle", "square", "star")):
            folder = root / "shapes" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.randint(0, 160, size=(36, 40, 3), dtype=np.uint8)
                pixels[..., label] += 80
                Image.fromarray(pixels).save(folder / f"{i}.png")
    (root / "shapes.yaml").write_text("DATASET: {NAME: Shapes}\n")
    return root


def flags(world, trainer, output, *pairs):
    words = ["--root", str(world), "--seed", "1", "--trainer", trainer, "--backbone", "toy/ViT"]
    words += ["--dataset-config-file", str(world / "shapes.yaml"), "--output-dir", str(output)]
    return [*words, *FAST, *pairs]


def start(words):
    args, stdout = make_parser().parse_args(words), sys.stdout
    try:
        return run(args, make_config(args))
    finally:
        sys.stdout = stdout


def idiom(name):
    return (IDIOM / f"{name}.py").read_text(encoding="utf-8")


@pytest.fixture(scope="module", autouse=True)
def shapes():
    """Register the dataset of the idiom once."""
    from idiom import shapes

    return shapes


# ------------------------------------------------------------------ a whole repository
def test_a_repository_runs_as_it_is_beside_links_to_dassl_and_clip(world, tmp_path):
    project = tmp_path / "project"
    for package in ("trainers", "datasets"):
        (project / package).mkdir(parents=True)
        (project / package / "__init__.py").touch()
    shutil.copy(IDIOM / "entry_script.py", project / "train.py")
    shutil.copy(IDIOM / "shapes.py", project / "datasets")
    shutil.copy(IDIOM / "prompt_trainer.py", project / "trainers" / "coop.py")
    (project / "trainers" / "zsclip.py").write_text("from .coop import load_clip_to_cpu\n")
    for package in ("dassl", "clip"):
        (project / package).symlink_to(REPOSITORY / package)

    words = flags(world, "IdiomPrompt", tmp_path / "out", "TRAINER.IDIOM.N_CTX", "2")
    done = subprocess.run(
        [sys.executable, "train.py", *words],
        cwd=project,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert "* accuracy:" in done.stdout
    assert (tmp_path / "out" / "prompt_learner" / "model.pth.tar-1").is_file()


def test_dassl_alone_leaves_a_repository_its_own_clip_trainers_and_datasets():
    taken = re.compile(r"^\s*(?:from|import) (?:clip|trainers|datasets)\b", re.MULTILINE)
    files = (REPOSITORY / "dassl").rglob("*.py")

    assert [path for path in files if taken.search(path.read_text(encoding="utf-8"))] == []


def test_its_train_py_drives_our_trainers_which_get_the_keys_it_does_not_know(world, tmp_path):
    cfg = get_cfg_default()
    cfg.TRAINER.TaskRes = CN({"RESIDUAL_SCALE": 0.25, "ENHANCED_BASE": "none", "PREC": "fp32"})
    cfg.merge_from_file(str(world / "shapes.yaml"))
    cfg.INPUT.TRANSFORMS = ("random_flip", "normalize")
    cfg.merge_from_list(["DATASET.ROOT", str(world), *FAST[:-2]])
    cfg.TRAINER.NAME, cfg.MODEL.BACKBONE.NAME = "TaskRes", "toy/ViT"
    cfg.OUTPUT_DIR, cfg.VERBOSE = str(tmp_path), False
    cfg.freeze()

    trainer = build_trainer(cfg)

    assert trainer.method.alpha == 0.25
    assert cfg.TRAINER.TaskRes.VARIANT == "text" and cfg.is_frozen()
    assert cfg.INPUT.SIZE == (32, 32) and cfg.INPUT.INTERPOLATION == "bicubic"
    assert tuple(cfg.INPUT.PIXEL_MEAN) == IMAGE_MEAN and tuple(cfg.INPUT.PIXEL_STD) == IMAGE_STD


# ------------------------------------------------------------------ a trainer file
def test_a_trainer_file_runs_under_our_train_py_with_its_keys_given(world, tmp_path):
    text = idiom("prompt_trainer").replace("IdiomPrompt", "DroppedPrompt")
    pairs = ("TRAINER.IDIOM.N_CTX", "2", "TRAINER.IDIOM.PREC", "fp32")

    with dropped(tmp_path, dropped_prompt=text):
        results = start(flags(world, "DroppedPrompt", tmp_path / "out", *pairs))

    printed = (tmp_path / "out/log.txt").read_text()
    assert "Number of context words (tokens): 2" in printed
    assert results["trainer"] == "DroppedPrompt" and "accuracy" in results["metrics"]["test"]


def test_a_key_of_the_file_that_is_not_given_is_named_with_the_line_to_add(world, tmp_path):
    text = idiom("prompt_trainer").replace("IdiomPrompt", "DroppedPrompt")
    words = flags(world, "DroppedPrompt", tmp_path / "out", "TRAINER.IDIOM.PREC", "fp32")

    with (
        dropped(tmp_path, dropped_prompt=text),
        pytest.raises(
            KeyError, match=r".*trainers/dropped_prompt.py .*\(TRAINER.IDIOM.N_CTX VALUE"
        ),
    ):
        start(words)


def test_a_trainer_file_may_import_what_its_siblings_offer_and_call_vendored_helpers(
    world, tmp_path, monkeypatch
):
    made = []
    with dropped(tmp_path, sibling=idiom("sibling_trainer")):
        module = importlib.import_module("trainers.sibling")
        build = module.SiblingAdapter.build_model
        monkeypatch.setattr(
            module.SiblingAdapter, "build_model", lambda self: made.append(self) or build(self)
        )
        pairs = ("TRAINER.SIBLING.PREC", "fp32", "OPTIM.WEIGHT_DECAY", "0.0")
        start(flags(world, "SiblingAdapter", tmp_path / "out", *pairs))

    assert made[0].finals == [(True, None)]
    assert torch.equal(made[0].adapter.scale[2:], torch.ones_like(made[0].adapter.scale[2:]))
    assert not torch.equal(made[0].adapter.scale[:2], torch.ones(2))


def test_the_subspace_update_keeps_of_all_gradients_together_what_the_basis_spans():
    gradients, basis = [torch.randn(2, 3), torch.randn(4)], torch.randn(5, 10)
    whole = torch.cat([gradient.flatten() for gradient in gradients])
    expected = basis.t() @ basis @ whole

    project_gradients(gradients, basis)

    torch.testing.assert_close(torch.cat([g.flatten() for g in gradients]), expected)
    with pytest.raises(ValueError, match=r"self.U is \(5, 10\), .* have 4 elements"):
        project_gradients(gradients[1:], basis)


def test_a_trainer_with_the_name_of_one_of_ours_takes_its_place(world, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    text = idiom("prompt_trainer").replace("IdiomPrompt", "CoOp")
    pairs = ("TRAINER.IDIOM.N_CTX", "2", "TRAINER.IDIOM.PREC", "fp32")

    with dropped(tmp_path, other_coop=text):
        results = start(flags(world, "CoOp", tmp_path / "out", *pairs))

    assert results["trainable_parameters"] == 2 * 64
    assert "CoOp of trainers.other_coop replaces that of trainers.coop." in caplog.messages


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("coop", ["CoOp", "load_clip_to_cpu"]),
        ("taskres", ["TaskRes", "load_clip_to_cpu"]),
        ("zsclip", ["ZeroshotCLIP", "ZeroshotCLIP2", "CUSTOM_TEMPLATES", "load_clip_to_cpu"]),
        ("mmadapter", ["MultiModalAdapter"]),
        ("adapters", ["ADAPTER"]),
        ("independentVL", ["IVLP"]),
        ("vpt", ["VPT"]),
        ("imagenet_templates", ["IMAGENET_TEMPLATES", "IMAGENET_TEMPLATES_SELECT"]),
    ],
)
def test_official_module_names_lead_to_what_is_here(module, names):
    found = __import__(f"trainers.{module}", fromlist=names)

    assert [name for name in names if not hasattr(found, name)] == []


def test_the_official_lists_of_templates_are_the_ones_that_our_trainers_use():
    from trainers.imagenet_templates import IMAGENET_TEMPLATES, IMAGENET_TEMPLATES_SELECT
    from trainers.zsclip import CUSTOM_TEMPLATES

    assert full_templates() == IMAGENET_TEMPLATES
    assert select_templates() == IMAGENET_TEMPLATES_SELECT
    assert CUSTOM_TEMPLATES["OxfordPets"] == "a photo of a {}, a type of pet."


# ------------------------------------------------------------------ dataset files
def test_official_dataset_files_take_the_place_of_ours(tmp_path):
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "datasets", tmp_path / "datasets", ignore=ignored)
    for name in ("dtd.py", "imagenet.py"):
        shutil.copy(IDIOM / name, tmp_path / "datasets" / name)
    for name in ("banded", "dotted"):
        folder = tmp_path / "data" / "dtd" / "images" / name
        folder.mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (8, 8)).save(folder / f"{i}.png")
    program = """
import sys, datasets
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, build_dataset
cfg = get_cfg_default()
cfg.DATASET.NAME, cfg.DATASET.ROOT, cfg.VERBOSE = "DescribableTextures", sys.argv[1], False
print(len(build_dataset(cfg).test), hasattr(DATASET_REGISTRY.get("ImageNet"), "pieces"))
print(all(name in DATASET_REGISTRY for name in ("Food101", "ImageNetA", "ImageNetV2", "EuroSAT")))
"""

    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "data")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY)])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert done.stdout == "6 False\nTrue\n", done.stderr
    assert done.stderr == ""


def test_no_dataset_file_imports_from_one_that_other_repositories_bring():
    brought = {f"{name}.py" for name in OFFICIAL_DATASETS}
    importing = [
        f"{path.name}: {line}"
        for path in sorted((REPOSITORY / "datasets").glob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("from .") and f"{line.split()[1][1:]}.py" in brought
    ]

    assert importing == []


OFFICIAL_DATASETS = (
    *("caltech101", "dtd", "eurosat", "fgvc_aircraft", "food101", "imagenet", "imagenet_a"),
    *("imagenet_r", "imagenet_sketch", "imagenetv2", "oxford_flowers", "oxford_pets"),
    *("stanford_cars", "sun397", "ucf101"),
)


# ------------------------------------------------------------------ keys and names of official code
def test_clap_s_official_name_and_keys_train_the_same(tmp_path):
    world = make_world(tmp_path / "world")
    pairs = ("OPTIM.NAME", "sgd", "OPTIM.LR", 0.1)
    official = {"INIT": "ZS", "CONSTRAINT": "l2", "ENHANCED_BASE": "none", "PREC": "fp32"}
    keys = [word for key, value in official.items() for word in (f"TRAINER.ADAPTER.{key}", value)]

    clap = make_trainer(world, "CLAP", tmp_path / "a", *pairs, "TRAINER.CLAP.VIEWS", 2)
    adapter = make_trainer(
        world, "ADAPTER", tmp_path / "b", *pairs, *keys, "TRAINER.ADAPTER.VIEWS", 2
    )
    clap.train()
    adapter.train()

    assert torch.equal(adapter.method.prototypes, clap.method.prototypes)


def test_a_published_command_runs_with_the_recipe_that_its_config_names(world, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    keys = ("TRAINER.ADAPTER.INIT", "ZS", "TRAINER.ADAPTER.CONSTRAINT", "l2")
    given = ("--config-file", "configs/trainers/SGD_lr1e-1_B256_ep300.yaml")
    command = [*given, *flags(world, "ADAPTER", tmp_path / "out", *keys)]

    first, again = start(command), start(command)

    assert first["finished"] and again["metrics"] == first["metrics"]
    assert "SGD_lr1e-1_B256_ep300.yaml is here: CLAP/rn50." in caplog.text
    assert "This run is finished" in caplog.text


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("INIT", "TipA-f-", "use --trainer TipAdapterF"),
        ("INIT", "RANDOM", "expected ZS"),
        ("ENHANCED_BASE", "base.pth", "--trainer TaskRes --enhanced-base PATH"),
        ("CONSTRAINT", "cosine", "expected one of none, l2"),
    ],
)
def test_what_clap_s_trainer_does_beyond_clap_is_refused(tmp_path, key, value, hint):
    world = make_world(tmp_path / "world")

    with pytest.raises(ValueError, match=hint):
        make_trainer(world, "ADAPTER", tmp_path / "out", f"TRAINER.ADAPTER.{key}", value)


def test_vpt_s_official_key_gives_the_words_before_the_class_name(tmp_path):
    world = make_world(tmp_path / "world")

    def classifier(*pairs):
        pairs = ("INPUT.TRANSFORMS", "['normalize']", *pairs)
        return make_trainer(world, "VPT", tmp_path / "out", *pairs).method.text

    plain = classifier()

    assert torch.equal(classifier("TRAINER.VPT.CTX_INIT", "a photo of a"), plain)
    assert torch.equal(
        classifier("TRAINER.VPT.CTX_INIT", "one"), classifier("DATASET.TEMPLATES", "['one {}.']")
    )


# ------------------------------------------------------------------ what needs a CLIP of its own
def test_prompts_inside_the_towers_are_refused_when_the_model_is_built():
    plain = {"trainer": "A", "vision_depth": 0, "language_depth": 0, "vision_ctx": 4}
    state = torch_state_dict("tiny_vit")

    assert build_model(state, plain).dtype == torch.float16
    for asked in ({"maple_length": 2}, {"vision_depth": 9}, {"n_rep_tokens": 5}):
        with pytest.raises(ValueError, match=f"{next(iter(asked))}.*{OWN_CLIP}"):
            build_model(state, {**plain, **asked})


def test_the_calls_of_other_transformers_are_refused():
    clip = tiny_clip()
    x = clip.token_embedding(tokenize(["a cat"])).permute(1, 0, 2)
    images = torch.rand(1, 3, 32, 32)

    with pytest.raises(ValueError, match=f"transformer .* a list of 3. .*{OWN_CLIP}"):
        clip.transformer([x, [], 0])
    with pytest.raises(ValueError, match=f"transformer .* 2 arguments. .*{OWN_CLIP}"):
        clip.transformer(x, None)
    for call in ((images, x, []), ([images, []],)):
        with pytest.raises(ValueError, match=f"image tower .*{OWN_CLIP}"):
            clip.visual(*call)
