"""Settings that change nothing: how they are declared, and what the user is told."""

import logging

import pytest
from yacs.config import CfgNode as CN

import trainers  # noqa: F401 - registers the trainers
from dassl.config import Condition, idle_settings, never, only_if
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.command.cli import make_config, make_parser
from dassl.engine.settings.unread import given_keys, warn_of_idle_settings


def config(**optim) -> CN:
    return CN({"OPTIM": {"NAME": "adam", "MOMENTUM": 0.9, "MAX_EPOCH": 0, **optim}, "SEED": 1})


# --------------------------------------------------------------------- declaring
def test_a_key_is_idle_where_another_has_another_value():
    idle = idle_settings(config(), [only_if("OPTIM.MOMENTUM", "OPTIM.NAME", "sgd", "rmsprop")])

    reason = "it is read with OPTIM.NAME sgd or rmsprop only, and here that is adam (to have it "
    reason += "read, add OPTIM.NAME sgd)"
    assert idle == {"OPTIM.MOMENTUM": reason}


@pytest.mark.parametrize("name", ["sgd", "rmsprop"])
def test_a_key_is_read_where_the_other_has_one_of_the_values(name):
    condition = only_if("OPTIM.MOMENTUM", "OPTIM.NAME", "sgd", "rmsprop")

    assert idle_settings(config(NAME=name), [condition]) == {}


def test_a_section_stands_for_every_key_below_it_and_no_other():
    condition = Condition(("OPTIM",), lambda cfg: cfg.OPTIM.MAX_EPOCH > 0, "nothing is trained")

    assert set(idle_settings(config(), [condition])) == {
        "OPTIM.NAME",
        "OPTIM.MOMENTUM",
        "OPTIM.MAX_EPOCH",
    }
    assert idle_settings(config(), [never("OPT", "no such section")]) == {}


def test_the_first_condition_that_fails_gives_the_reason():
    conditions = [never("OPTIM.MOMENTUM", "of the method"), never("OPTIM", "of the engine")]

    idle = idle_settings(config(), conditions)

    assert idle["OPTIM.MOMENTUM"] == "of the method"
    assert idle["OPTIM.NAME"] == "of the engine"


def test_a_reason_shows_values_as_one_would_type_them():
    condition = never(
        "SEED", "{OPTIM.NAME}, {OPTIM.MAX_EPOCH}, {OPTIM.MOMENTUM}, {WORDS}, {NOTHING}"
    )
    cfg = config(NAME="")
    cfg.WORDS, cfg.NOTHING = "a photo of a", "one"

    assert idle_settings(cfg, [condition]) == {"SEED": "'', 0, 0.9, 'a photo of a', one"}


def test_a_key_that_a_config_lacks_is_not_idle():
    assert idle_settings(config(), [never("OPTIM.UNKNOWN", "nobody reads it")]) == {}


# --------------------------------------------------------------------- telling
def command(*words: str):
    return make_parser().parse_args(["--trainer", "CoOp", "--dataset", "toy_objects", *words])


def warnings_of(caplog, *words: str) -> list[str]:
    args = command(*words)
    cfg = make_config(args)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "dassl.engine.settings.unread"):
        warn_of_idle_settings(args, cfg, TRAINER_REGISTRY.get("CoOp"))
    return [r.getMessage() for r in caplog.records if r.name == "dassl.engine.settings.unread"]


def test_a_given_key_without_effect_is_named_with_what_it_needs(caplog):
    (warning,) = warnings_of(caplog, "TRAINER.COOP.N_CTX", "16")

    assert warning == (
        "TRAINER.COOP.N_CTX 16 has no effect: it is read with TRAINER.COOP.CTX_INIT '' only, and "
        "here that is 'a photo of a' (to have it read, add TRAINER.COOP.CTX_INIT '')."
    )


def test_a_key_that_is_given_twice_is_named_once(caplog):
    words = ("TRAINER.COOP.N_CTX", "8", "TRAINER.COOP.N_CTX", "16")

    assert len(warnings_of(caplog, *words)) == 1


def test_nothing_is_said_of_a_key_that_is_read(caplog):
    words = ("TRAINER.COOP.CTX_INIT", "", "TRAINER.COOP.N_CTX", "16")

    assert warnings_of(caplog, *words) == []


def test_nothing_is_said_of_what_a_recipe_states(caplog):
    assert warnings_of(caplog, "OPTIM.LR", "0.1") == []


def test_a_key_of_ones_own_file_counts_as_given_and_one_of_a_recipe_does_not(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("TRAINER: {COOP: {N_CTX: 8}}\n", encoding="utf-8")
    recipe = "configs/trainers/CoOp/toy.yaml"

    assert list(given_keys(command("--config-file", str(own)))) == ["TRAINER.COOP.N_CTX"]
    assert list(given_keys(command("--config-file", recipe))) == []


def test_a_flag_counts_as_the_key_that_it_sets():
    keys = list(given_keys(command("--backbone", "toy/ViT", "--transforms", "normalize")))

    assert keys == ["INPUT.TRANSFORMS", "MODEL.BACKBONE.NAME"]


@pytest.mark.parametrize("trainer", ["CoOp", "CoCoOp", "KgCoOp", "LASP"])
def test_a_recipe_whose_words_give_the_length_says_so_of_n_ctx(trainer):
    words = ["--trainer", trainer, "--dataset", "toy_objects"]
    cfg = make_config(make_parser().parse_args(words))
    kind = TRAINER_REGISTRY.get(trainer)

    idle = kind.idle_settings(cfg)

    (reason,) = (idle[key] for key in idle if key.endswith(".N_CTX"))
    assert "CTX_INIT" in reason
