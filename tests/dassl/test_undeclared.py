"""Keys of trainers that declare none, and sections of other trainers in a recipe."""

import logging
import sys

import engine_toy
import pytest
from dropped import dropped

from dassl.engine.command.cli import make_config, make_parser
from dassl.engine.command.run import run

DATASET_YAML = "DATASET: {NAME: EngineColours}\nINPUT: {SIZE: [8, 8]}\n"
RECIPE_YAML = """
DATALOADER: {NUM_WORKERS: 0, TRAIN_X: {BATCH_SIZE: 4}}
OPTIM: {NAME: sgd, LR: 0.01, MAX_EPOCH: 1}
"""
PLAIN = """
from dassl.engine import TRAINER_REGISTRY
from engine_toy import EngineToy


@TRAINER_REGISTRY.register()
class Plain(EngineToy):
    def build_model(self):
        cfg = self.cfg
        self.width = cfg.TRAINER.PLAIN.WIDTH
        self.rate = cfg.TRAINER.PLAIN.RATE
        if cfg.OPTIM_NET.NAME == "sgd":
            print("task", cfg.TASK)
        super().build_model()
"""
EXTEND = """

def extend_cfg(cfg):
    from yacs.config import CfgNode as CN

    cfg.TRAINER.PLAIN = CN()
    cfg.TRAINER.PLAIN.WIDTH = 4
    cfg.OPTIM_NET = CN()
    cfg.OPTIM_NET.NAME = "sgd"
    cfg.TASK = "B2N"
"""


@pytest.fixture
def world(tmp_path):
    """Images and YAML files in a temporary folder."""
    engine_toy.make_images(tmp_path)
    (tmp_path / "colours.yaml").write_text(DATASET_YAML)
    (tmp_path / "plain.yaml").write_text(RECIPE_YAML)
    return tmp_path


def parse(world, *pairs, trainer="Plain"):
    words = ["--root", str(world), "--trainer", trainer, "--output-dir", str(world / "run")]
    words += ["--dataset-config-file", str(world / "colours.yaml")]
    words += ["--config-file", str(world / "plain.yaml"), "--seed", "1", *pairs]
    return make_parser().parse_args(words)


def config(world, *pairs, **options):
    return make_config(parse(world, *pairs, **options))


def start(world, *pairs, **options):
    args, stdout = parse(world, *pairs, **options), sys.stdout
    try:
        return run(args, make_config(args))
    finally:
        sys.stdout = stdout


def test_a_trainer_that_declares_nothing_takes_keys_from_yaml_and_command_line(world):
    (world / "plain.yaml").write_text(
        RECIPE_YAML + "TRAINER: {PLAIN: {WIDTH: 8, RATE: [1, 2]}}\nOPTIM_NET: {NAME: sgd}\n"
    )

    with dropped(world, plain=PLAIN):
        cfg = config(world, "TRAINER.PLAIN.RATE", "0.5", "TASK", "FS")

    assert (cfg.TRAINER.PLAIN.WIDTH, cfg.TRAINER.PLAIN.RATE) == (8, 0.5)
    assert (cfg.OPTIM_NET.NAME, cfg.TASK) == ("sgd", "FS")


def test_such_a_trainer_trains_and_its_config_is_kept(world):
    pairs = ("TRAINER.PLAIN.WIDTH", "8", "TRAINER.PLAIN.RATE", "1", "OPTIM_NET.NAME", "sgd")

    with dropped(world, plain=PLAIN):
        results = start(world, *pairs, "TASK", "FS")

    assert "accuracy" in results["metrics"]["test"]
    assert "WIDTH: 8" in (world / "run" / "config.yaml").read_text()


def test_reading_a_key_that_nobody_set_names_the_key_the_file_and_the_line_to_add(world):
    with (
        dropped(world, plain=PLAIN),
        pytest.raises(KeyError) as info,
    ):
        start(world, "TRAINER.PLAIN.WIDTH", "8")

    text = info.value.args[0]
    assert "trainers/plain.py reads TRAINER.PLAIN.RATE, which is not set." in text
    assert "add its keys to the command (OPTIM_NET.NAME VALUE)" in text
    assert text.endswith("Not set: OPTIM_NET.NAME, TRAINER.PLAIN.RATE.")


def test_a_section_that_nobody_set_is_named_with_the_keys_that_are_read(world):
    with (
        dropped(world, plain=PLAIN),
        pytest.raises(KeyError, match="reads TRAINER.PLAIN, .*PLAIN.RATE, TRAINER.PLAIN.WIDTH"),
    ):
        start(world, "OPTIM_NET.NAME", "sgd", "TASK", "B2N")


def test_the_extend_cfg_of_its_own_train_py_gives_a_trainer_s_file_its_defaults(world):
    with dropped(world, plain=PLAIN + EXTEND):
        cfg = config(world, "TRAINER.PLAIN.WIDTH", "6")

        with pytest.raises(KeyError, match="reads TRAINER.PLAIN.RATE, .*Not set: TRAINER"):
            start(world)

    assert (cfg.TRAINER.PLAIN.WIDTH, cfg.OPTIM_NET.NAME, cfg.TASK) == (6, "sgd", "B2N")


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("assert cfg.OPTIM.NAME == 'adam'", "line 10, does not hold: assert cfg.OPTIM.NAME == 'a"),
        ("assert 224 == 32, 'sizes differ'", "line 10, does not hold: sizes differ"),
        (
            "from clip import clip; clip.build_model_X",
            "line 10: .* 'build_model_X'. .* another CLIP",
        ),
    ],
)
def test_what_the_file_asserts_and_what_our_clip_lacks_is_said_in_a_line(world, statement, text):
    head, _, _ = PLAIN.partition("        self.width")

    with (
        dropped(world, plain=f"{head}        {statement}\n"),
        pytest.raises((ValueError, RuntimeError), match=text),
    ):
        start(world)


def test_an_extend_cfg_that_fails_is_named(world):
    extend = "\n\ndef extend_cfg(cfg):\n    cfg.TRAINER.WIDTH = args.width\n"

    with (
        dropped(world, plain=PLAIN + extend),
        pytest.raises(ValueError, match="extend_cfg of .*trainers/plain.py .*NameError.*'args'"),
    ):
        config(world)


@pytest.mark.parametrize(
    ("key", "hint"), [("OPTIM.LRR", '"OPTIM.LR"'), ("DATASET.NUM_SHOT", '"DATASET.NUM_SHOTS"')]
)
def test_a_misspelt_key_of_the_engine_is_refused(world, key, hint):
    with dropped(world, plain=PLAIN), pytest.raises(KeyError, match=f"{key}.*Did you mean {hint}"):
        config(world, key, "1")


def test_a_key_that_the_trainer_s_file_never_names_is_taken_with_a_warning(world, caplog):
    caplog.set_level(logging.WARNING)

    with dropped(world, plain=PLAIN):
        config(world, "TRAINER.PLAIN.WIDHT", "1", "TRAINER.PLAIN.RATE", "1")

    (message,) = caplog.messages
    assert message.endswith(
        "plain.py does not seem to read TRAINER.PLAIN.WIDHT. Is it spelt right?"
    )


def test_keys_that_a_file_beside_the_trainer_reads_count_as_read(world, caplog):
    caplog.set_level(logging.WARNING)
    helper = "def teacher(cfg):\n    return cfg.TRAINER.PLAIN.TEACHER\n"
    user = PLAIN.replace("\n\n\n@TR", "\nfrom .plain_helper import teacher\n\n\n@TR", 1)

    with dropped(world, plain=user, plain_helper=helper):
        config(world, "TRAINER.PLAIN.TEACHER", "big")

    assert caplog.messages == []


def test_a_key_that_the_dataset_s_file_reads_is_taken(world, caplog):
    data = """
from dassl.data.datasets import DATASET_REGISTRY
from engine_toy import EngineColours


@DATASET_REGISTRY.register()
class PlainColours(EngineColours):
    def __init__(self, cfg):
        self.tone = cfg.DATASET.TONE
        super().__init__(cfg)
"""
    caplog.set_level(logging.WARNING)
    (world / "colours.yaml").write_text("DATASET: {NAME: PlainColours, TONE: dark}\n")

    with dropped(world, plain=PLAIN, plain_data=data):
        assert config(world).DATASET.TONE == "dark"
    assert caplog.messages == []


def test_the_enhanced_base_flag_reaches_a_file_that_reads_its_key(world):
    reading = PLAIN.replace("WIDTH", "WIDTH\n        cfg.TRAINER.TaskRes.ENHANCED_BASE", 1)

    with dropped(world, plain=reading):
        args = parse(world)
        args.enhanced_base = "none"
        assert make_config(args).TRAINER.TaskRes.ENHANCED_BASE == "none"
    with dropped(world, plain=PLAIN), pytest.raises(ValueError, match="belongs to TaskRes"):
        make_config(args)


# ------------------------------------------------------------------ sections of other trainers
@pytest.mark.parametrize(
    ("trainer", "section", "name"),
    [
        ("ZeroshotCLIP", "TRAINER: {COOP: {CTX_INIT: a photo of a}}", "TRAINER.COOP"),
        ("ZeroshotCLIP", "TRAINER: {NOT_HERE: {N: 4}}", "TRAINER.NOT_HERE"),
        ("CoOp", "DATASET: {PROMPT: a photo of a _.}", "DATASET.PROMPT"),
        ("CoOp", "TRAINER: {COOP: {W: 8.0}}", "TRAINER.COOP.W"),
        ("CoOp", "LOSS: {NAME: prograd}", "LOSS"),
        ("CoOp", "OPTIM_VNET: {LR: 0.1}", "OPTIM_VNET"),
    ],
)
def test_what_belongs_to_another_trainer_is_ignored_with_a_line(
    world, caplog, trainer, section, name
):
    file = world / "plain.yaml"
    file.write_text(f"OPTIM: {{LR: 0.25}}\n{section}\n")

    cfg = config(world, trainer=trainer)

    assert cfg.OPTIM.LR == 0.25
    assert caplog.messages == [f"{file}: ignoring {name}, which {trainer} does not have."]


@pytest.mark.parametrize(
    "content", ["TRAINER: {COPO: {N_CTX: 4}}", "TRAINER: {COOP: {N_CTXX: 4}}", "OPTIMS: {LR: 1.0}"]
)
def test_what_looks_misspelt_is_refused(world, content):
    (world / "plain.yaml").write_text(content)

    with pytest.raises(KeyError, match="Did you mean"):
        config(world, trainer="CoOp")


def test_a_foreign_key_on_the_command_line_is_refused(world):
    with pytest.raises(KeyError, match="TRAINER.COOP.N_CTX"):
        config(world, "TRAINER.COOP.N_CTX", "4", trainer="ZeroshotCLIP")


TOKEN_MAP = """
from dassl.engine import TRAINER_REGISTRY
from engine_toy import EngineToy


@TRAINER_REGISTRY.register()
class TokenMap(EngineToy):
    def forward_backward(self, batch):
        features = self.image_encoder(batch["img"])
        return {"loss": features.sum(dim=0), "tokens": features.shape[2]}

    def image_encoder(self, images):
        return self.model(images)
"""


def test_a_file_that_needs_the_features_of_another_clip_is_told_so_with_its_line(world):
    with dropped(world, tokens=TOKEN_MAP), pytest.raises(RuntimeError) as info:
        start(world, trainer="TokenMap")

    text = str(info.value)
    assert "trainers/tokens.py, line 10: IndexError: tuple index out of range." in text
    assert "run it with that CLIP" in text and "docs/compatibility.md" in text


def test_an_error_of_a_file_that_uses_no_tower_stays_as_it_is(world):
    other = TOKEN_MAP.replace("image_encoder", "read")

    with dropped(world, tokens=other), pytest.raises(IndexError, match="^tuple index"):
        start(world, trainer="TokenMap")
