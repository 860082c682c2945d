"""The selection rule of a run: whose labels chose the epoch or the settings that are tested."""

from yacs.config import CfgNode

from dassl.config import Condition, check_value, one_of

RULES = ("last", "val", "source_val", "test")  # from no labels to the test labels
_FINAL_MODELS = ("last_step", "best_val")
CONDITIONS = [
    Condition(
        ("TEST.FINAL_MODEL",),
        lambda cfg: cfg.TEST.SELECT_ON != "val",
        "TEST.SELECT_ON val says the same already",
    )
]


def selection_rule(cfg: CfgNode) -> str:
    """``last`` | ``val`` | ``source_val`` | ``test``, from TEST.SELECT_ON.

    TEST.FINAL_MODEL best_val, the original's key, is ``val``.

    Raises:
        ValueError: for an unknown value, or two keys that contradict each other.
    """
    rule, final = cfg.TEST.SELECT_ON, cfg.TEST.FINAL_MODEL
    check_value("TEST.SELECT_ON", rule, one_of(*RULES))
    check_value("TEST.FINAL_MODEL", final, one_of(*_FINAL_MODELS))
    if final == "last_step":
        return rule
    if rule in ("last", "val"):
        return "val"
    raise ValueError(
        f"TEST.FINAL_MODEL best_val and TEST.SELECT_ON {rule} contradict each other. "
        "Leave TEST.FINAL_MODEL out."
    )


def selection_split(rule: str) -> str | None:
    """The split whose accuracy a rule compares; None: nothing is compared."""
    return {"last": None, "val": "val", "source_val": "val", "test": "test"}[rule]


def most_revealing(*rules: str) -> str:
    """The rule of a result that several rules had a part in: the one that read most labels."""
    return max(rules, key=RULES.index)


def rule_in_words(rule: str) -> str:
    """One phrase on a rule for banners and results."""
    return {
        "last": "last (the last step, settings as given; no labels chose them)",
        "val": "val (the validation split chose epoch or settings)",
        "source_val": "source_val (held-out images of the source domains chose the epoch)",
        "test": "test (TEST labels chose epoch or settings: an oracle, not a fair result)",
    }[rule]
