"""New class names for a deployed classifier."""

from collections.abc import Sequence

from dassl.modeling.heads import StudentClassifier, TextHead

from .teacher import Teacher, class_embeddings


def replace_classes(
    network: StudentClassifier,
    teacher: Teacher,
    classnames: Sequence[str],
    templates: Sequence[str],
) -> None:
    """Give a distilled student other classes: new rows of its text head.

    Args:
        network: with a text head, changed in place.
        teacher: the text encoder that it was distilled from.
        classnames: C' new names.
        templates: each holds one {}.

    Raises:
        ValueError: if the head is not a text head, or the encoder is another one.
    """
    if not isinstance(network.head, TextHead):
        raise ValueError(
            "The classes of this classifier are learned rows, not texts: only students with a text "
            "head (VL2V trainers; NaiveKD img_only, txt_only, one_stage) take new class names."
        )
    texts = class_embeddings(teacher, classnames, templates)
    dimension = network.head.weight.shape[1]
    if texts.shape[1] != dimension:
        raise ValueError(
            f"The text encoder {teacher.name} gives {texts.shape[1]} numbers, the student "
            f"{dimension}. Use the teacher that it was distilled from."
        )
    network.head = TextHead(texts.to(network.head.weight), teacher.scale).requires_grad_(False)
