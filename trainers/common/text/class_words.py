"""What a class name says to a text encoder: its words, and the classes that share them.

Every prompt of this package is made from ``words_of`` a name, and nothing else folds names. The
tokenizer then folds case and white space, so that ``Cat`` and ``cat`` are one prompt.
"""

import logging
from collections.abc import Sequence

from clip.clip import default_tokenizer
from dassl.utils.text_files import INVISIBLE

logger = logging.getLogger(__name__)
SHOWN = 5  # groups of equal classes that a warning names


def words_of(classname: str, *, replace_underscores: bool = True) -> str:
    """The words of a class name, as they are seen: ``_`` is a blank unless told otherwise."""
    name = classname.translate(INVISIBLE)
    return name.replace("_", " ") if replace_underscores else name


def same_words(words: Sequence[str]) -> list[list[int]]:
    """Groups of labels whose words are the same tokens, in the order of their first label."""
    encode = default_tokenizer().encode
    groups: dict[tuple[int, ...], list[int]] = {}
    for label, text in enumerate(words):
        groups.setdefault(tuple(encode(text)), []).append(label)
    return [labels for labels in groups.values() if len(labels) > 1]


def warn_of_same_words(classnames: Sequence[str], words: Sequence[str]) -> None:
    """Name the classes that no prompt tells apart, in one warning.

    Args:
        classnames: C names, ordered by label.
        words: of each name, as in the prompts.
    """
    groups = same_words(words)
    if not groups:
        return
    named = "; ".join(
        " = ".join(f"{label} {classnames[label]!r}" for label in labels)
        for labels in groups[:SHOWN]
    )
    logger.warning(
        "%d of %d classes share their words with another (label and name: %s%s): their prompts are "
        "the same text, whatever the template. Scores from text alone cannot tell them apart, and "
        "at most one class of a group is ever answered. Rename the classes, as 'crane bird' and "
        "'construction crane'.",
        sum(map(len, groups)),
        len(classnames),
        named,
        "; ..." if len(groups) > SHOWN else "",
    )
