"""Settings declared as dataclasses: the node, the checks and the descriptions made from them."""

from dataclasses import FrozenInstanceError, dataclass

import pytest

from dassl.config import (
    Settings,
    above,
    at_least,
    check_settings,
    declared_cfg,
    describe_settings,
    get_cfg_default,
    idle_settings,
    leaves,
    merge_declared,
    one_of,
    setting,
)
from dassl.config.declared import declared_conditions, varying_names
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.base import TrainerBase
from trainers.taskres import TaskResSettings


@dataclass(frozen=True)
class Made(Settings, section="TRAINER.Made"):
    kind: str = setting("plain", "which one", one_of("plain", "fancy"), varies=True)
    lambda_: float = setting(0.5, "weight", at_least(0), read_if={"kind": "fancy"})
    words: list = setting([], "sentences", read_if={"count": above(1)})
    count: int = setting(1, "sentences at once", at_least(1))
    alpha: float = setting(1.0, "of the official node", unread="no code reads it")

    def check(self):
        if self.kind == "fancy" and self.count > 2:
            raise ValueError(f"{self.key('count')} is {self.count}; fancy takes 2.")


class MadeTrainer(TrainerBase):
    declares = (Made,)
    defaults = {"OPTIM.LR": 1.5}


def made_cfg(*pairs):
    cfg = get_cfg_default()
    merge_declared(cfg, declared_cfg(MadeTrainer))
    cfg.merge_from_list(list(pairs))
    return cfg


def test_the_node_has_a_key_with_default_and_type_for_every_field():
    expected = {
        "TRAINER.Made.KIND": "plain",
        "TRAINER.Made.LAMBDA": 0.5,
        "TRAINER.Made.WORDS": [],
        "TRAINER.Made.COUNT": 1,
        "TRAINER.Made.ALPHA": 1.0,
        "OPTIM.LR": 1.5,
    }

    found = dict(leaves(declared_cfg(MadeTrainer)))

    assert found == expected
    assert [type(v) for v in found.values()] == [type(v) for v in expected.values()]


def test_a_list_in_one_config_is_not_that_of_another():
    declared_cfg(MadeTrainer).TRAINER.Made.WORDS.append("a {}")

    assert declared_cfg(MadeTrainer).TRAINER.Made.WORDS == []


def test_the_settings_of_a_run_hold_its_values_and_cannot_be_changed():
    settings = Made.of(made_cfg("TRAINER.Made.LAMBDA", "2", "TRAINER.Made.WORDS", "['a {}']"))

    assert settings == Made(lambda_=2.0, words=["a {}"])
    with pytest.raises(FrozenInstanceError):
        settings.count = 3


def test_keys_that_a_config_lacks_have_their_defaults():
    cfg = made_cfg("TRAINER.Made.KIND", "fancy")
    del cfg.TRAINER.Made["LAMBDA"]

    assert Made.of(cfg) == Made(kind="fancy")


@pytest.mark.parametrize(
    ("pairs", "text"),
    [
        (
            ("KIND", "fanci"),
            "TRAINER.Made.KIND is 'fanci'; expected one of plain, fancy. Did you mean \"fancy\"?",
        ),
        (("KIND", "x"), "TRAINER.Made.KIND is 'x'; expected one of plain, fancy."),
        (("LAMBDA", "-1.0"), "TRAINER.Made.LAMBDA is -1.0; expected at least 0."),
        (("KIND", "fancy", "COUNT", "3"), "TRAINER.Made.COUNT is 3; fancy takes 2."),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_expected(pairs, text):
    words = [f"TRAINER.Made.{word}" if word.isupper() else word for word in pairs]

    with pytest.raises(ValueError) as error:
        check_settings(made_cfg(*words), MadeTrainer)

    assert str(error.value) == text


def test_a_method_gets_no_settings_that_the_command_line_would_refuse():
    with pytest.raises(ValueError, match="VARIANT is 'images'; expected one of text, image, both"):
        TaskResSettings(variant="images")


def test_a_key_is_read_where_the_declaration_says():
    def reasons(*pairs):
        return idle_settings(made_cfg(*pairs), declared_conditions(MadeTrainer))

    assert reasons() == {
        "TRAINER.Made.LAMBDA": "it is read with TRAINER.Made.KIND fancy only, and here that is "
        "plain (to have it read, add TRAINER.Made.KIND fancy)",
        "TRAINER.Made.WORDS": "it is read with TRAINER.Made.COUNT above 1 only, and here that is 1",
        "TRAINER.Made.ALPHA": "no code reads it",
    }
    both = ("TRAINER.Made.KIND", "fancy", "TRAINER.Made.COUNT", "2")
    assert list(reasons(*both)) == ["TRAINER.Made.ALPHA"]


def test_the_names_that_may_vary_are_those_declared_so():
    assert varying_names(MadeTrainer) == {"KIND"}


def test_a_description_says_what_a_user_needs_to_know():
    rows = {row.key: row for row in describe_settings(TRAINER_REGISTRY.get("TaskRes"))}

    row = rows["TRAINER.TaskRes.BASE_EPOCHS"]
    assert (row.default, row.allowed) == (50, "at least 1")
    assert row.read == "with TRAINER.TaskRes.ENHANCED_BASE train only"
    assert rows["TRAINER.TaskRes.VARIANT"].allowed == "one of text, image, both"
    assert rows["TRAINER.TaskRes.ENHANCED_BASE"].varies
    assert all(row.about for row in rows.values())
