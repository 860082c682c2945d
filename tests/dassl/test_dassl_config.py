"""The config: defaults, merging, errors."""

import pytest
from yacs.config import CfgNode

from dassl.config import above, at_least, between, check_ranges, clean_cfg, get_cfg_default
from dassl.config.ranges import ENGINE_RANGES
from dassl.config.tools import leaves


def test_two_default_configs_share_nothing():
    first, second = get_cfg_default(), get_cfg_default()

    first.OPTIM.LR = 5.0
    first.INPUT.PIXEL_MEAN[0] = 9.0

    assert second.OPTIM.LR == 0.0003
    assert second.INPUT.PIXEL_MEAN == [0.485, 0.456, 0.406]
    assert second.INPUT.SIZE == (224, 224)


def test_an_int_for_a_float_key_is_converted():
    cfg = get_cfg_default()

    cfg.merge_from_list(["OPTIM.LR", 1, "OPTIM.GAMMA", "2"])

    assert cfg.OPTIM.LR == 1.0
    assert isinstance(cfg.OPTIM.LR, float)
    assert isinstance(cfg.OPTIM.GAMMA, float)


def test_an_int_for_a_float_key_is_converted_in_a_plain_child_node(tmp_path):
    cfg = get_cfg_default()
    cfg.TRAINER.X = CfgNode()
    cfg.TRAINER.X.ALPHA = 0.5
    (tmp_path / "x.yaml").write_text("TRAINER:\n  X:\n    ALPHA: 1\n")

    cfg.merge_from_file(str(tmp_path / "x.yaml"))

    assert isinstance(cfg.TRAINER.X.ALPHA, float)


def test_text_of_a_yaml_file_is_evaluated_as_a_literal(tmp_path):
    cfg = get_cfg_default()
    (tmp_path / "x.yaml").write_text("OPTIM:\n  WARMUP_CONS_LR: 1e-5\n  LR: 0.002\n")

    cfg.merge_from_file(str(tmp_path / "x.yaml"))

    assert cfg.OPTIM.WARMUP_CONS_LR == 1e-5


def test_lists_and_tuples_are_converted_to_the_type_of_the_default():
    cfg = get_cfg_default()

    cfg.merge_from_list(["INPUT.SIZE", "[64, 32]", "INPUT.PIXEL_MEAN", "(0.1, 0.2, 0.3)"])

    assert cfg.INPUT.SIZE == (64, 32)
    assert cfg.INPUT.PIXEL_MEAN == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("key", "value"),
    [("SEED", "abc"), ("OPTIM.LR", True), ("USE_CUDA", 1), ("INPUT.SIZE", 3), ("OPTIM", "3")],
)
def test_a_value_of_another_type_is_refused_with_key_and_value(key, value):
    with pytest.raises(ValueError, match=key):
        get_cfg_default().merge_from_list([key, value])


def test_an_unknown_key_on_the_command_line_gets_a_did_you_mean():
    with pytest.raises(KeyError, match="OPTIM.MAX_EPOCHS.*[Dd]id you mean.*OPTIM.MAX_EPOCH"):
        get_cfg_default().merge_from_list(["OPTIM.MAX_EPOCHS", "3"])


def test_an_unknown_key_in_a_yaml_file_gets_a_did_you_mean(tmp_path):
    (tmp_path / "x.yaml").write_text("DATALODER:\n  NUM_WORKERS: 2\n")

    with pytest.raises(KeyError, match="Did you mean.*DATALOADER"):
        get_cfg_default().merge_from_file(str(tmp_path / "x.yaml"))


def test_an_odd_number_of_options_is_refused():
    with pytest.raises(ValueError, match="pairs"):
        get_cfg_default().merge_from_list(["SEED"])


def test_a_missing_attribute_names_what_is_there():
    with pytest.raises(AttributeError, match='"MAX_EPOCH"'):
        _ = get_cfg_default().OPTIM.MAX_EPOCHS


def test_a_frozen_config_cannot_be_changed():
    cfg = get_cfg_default()
    cfg.freeze()

    with pytest.raises(AttributeError, match="[Ff]rozen"):
        cfg.merge_from_list(["SEED", 1])


def test_a_config_survives_dump_and_load():
    cfg = get_cfg_default()
    cfg.merge_from_list(["OPTIM.LR", 0.5, "DATASET.TEMPLATES", "('a photo of a {}.',)"])

    loaded = get_cfg_default()
    loaded.merge_from_other_cfg(type(cfg).load_cfg(cfg.dump()))

    assert loaded == cfg


def test_clean_cfg_keeps_only_the_node_of_the_trainer():
    cfg = get_cfg_default()
    cfg.TRAINER.COOP, cfg.TRAINER.COCOOP = CfgNode(), CfgNode()

    clean_cfg(cfg, "CoOp")

    assert set(cfg.TRAINER) == {"NAME", "COOP"}


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("OPTIM.MAX_EPOCH", "-3", "OPTIM.MAX_EPOCH is -3; expected at least 0"),
        ("OPTIM.LR", "1e999", "OPTIM.LR is inf; expected a finite number"),
        ("OPTIM.GAMMA", "1e300", r"OPTIM.GAMMA is 1e\+300; expected .* at most 3.4e\+38"),
        ("OPTIM.LR", "-0.1", "OPTIM.LR is -0.1; expected at least 0"),
        ("OPTIM.WARMUP_EPOCH", "-2", "expected at least -1"),
        ("OPTIM.ADAM_BETA1", "1.5", "expected at least 0 and at most 1"),
        ("DATALOADER.TRAIN_X.BATCH_SIZE", "0", "expected at least 1"),
        ("DATALOADER.TEST.BATCH_SIZE", "-4", "expected at least 1"),
        ("TRAIN.PRINT_FREQ", "0", "expected at least 1"),
        (
            "INPUT.RRCROP_SCALE",
            "(0.0, 1.0)",
            r"is \(0.0, 1.0\); expected 2 numbers, each above 0 and",
        ),
        ("INPUT.PIXEL_STD", "(1e999, 1.0, 1.0)", "expected a finite number"),
        ("INPUT.PIXEL_MEAN", "(0.5,)", r"is \(0.5\); expected 3 numbers, each at least -1000 and"),
        ("INPUT.SIZE", "('a', 'b')", r"is \(a, b\); expected 2 numbers, each at least 0"),
        ("DATALOADER.NUM_WORKERS", "100000", "expected at least -1 and at most 1024"),
        ("DATASET.NUM_SHOTS", "9" * 40, "expected a finite number, at most 4.3e"),
        ("OPTIM.MAX_EPOCH", "None", "OPTIM.MAX_EPOCH is None; expected at least 0"),
        ("OUTPUT_DIR", "a\0b", "OUTPUT_DIR holds a zero byte"),
        ("MODEL.BACKBONE.NAME", "None", "MODEL.BACKBONE.NAME is None; expected a value"),
    ],
)
def test_a_number_that_no_run_can_use_is_refused_by_its_key(key, value, text):
    cfg = get_cfg_default()
    cfg.merge_from_list([key, value])

    with pytest.raises(ValueError, match=text):
        check_ranges(cfg)


def test_not_a_number_is_refused_for_every_key():
    cfg = get_cfg_default()
    cfg.TRAINER.X = CfgNode({"ALPHA": float("nan")})

    with pytest.raises(ValueError, match="TRAINER.X.ALPHA is nan; expected a finite number"):
        check_ranges(cfg)


def test_the_defaults_are_in_their_ranges_and_the_ranges_are_of_keys_that_exist():
    cfg = get_cfg_default()

    check_ranges(cfg)

    known = dict(leaves(cfg))
    assert not [key for key in ENGINE_RANGES if key not in known]


def test_every_number_of_the_engine_has_a_range():
    numbers = {
        key
        for key, value in leaves(get_cfg_default())
        for entry in (value if isinstance(value, (list, tuple)) else [value])
        if isinstance(entry, (int, float)) and not isinstance(entry, bool)
    }

    assert numbers <= set(ENGINE_RANGES) and len(numbers) > 50


def test_the_bounds_of_a_range_are_in_it_unless_it_is_open():
    assert 0 in at_least(0) and 0 not in above(0)
    assert 1 in between(0, 1) and 1.1 not in between(0, 1)
    assert [str(r) for r in (at_least(1), above(0))] == ["at least 1", "above 0"]
