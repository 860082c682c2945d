"""Teachers: frozen image and text encoders, in this process or at an endpoint.

A black-box teacher is two callables, image -> embedding and text -> embedding; nothing else of it
is used. Every query is counted, because clients pay per query.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from clip.model import CLIP
from dassl.config import check_value, one_of
from dassl.utils import cache_dir, ranks, weights_digest, write_tensors
from dassl.utils.files import errors_of_writing
from trainers.common.text.class_words import warn_of_same_words, words_of
from trainers.common.text.templates import check_templates

TEXT_BATCH = 256  # prompts per call
COUNTS = ("images", "texts", "needed_images", "needed_texts")
PROMPT_STYLES = {
    1: ("{}",),
    2: ("a photo of a {}",),  # no final period
    3: ("an art of a {}", "a clipart of a {}", "a photo of a {} product", "a photo of a {}"),
    5: ("a clipart of a {}", "a photo of a {} product", "a photo of a {}"),
    6: ("a photo of a {}",),  # with the class index as the name
}
REPLACED_STYLES = (2, 6)  # by DATASET.TEMPLATES, which the configs of domain datasets set


def prompt_templates(style: int) -> tuple[str, ...]:
    """The templates of a prompt style; ValueError for an unknown one."""
    check_value("PROMPT_STYLE", style, one_of(*PROMPT_STYLES))
    return PROMPT_STYLES[style]


def run_templates(cfg: CfgNode, style: int) -> tuple[str, ...]:
    """The templates of a prompt style; DATASET.TEMPLATES replace those of REPLACED_STYLES."""
    own = prompt_templates(style)
    if style not in REPLACED_STYLES or not cfg.DATASET.TEMPLATES:
        return own
    return tuple(check_templates(cfg.DATASET.TEMPLATES))


def prompt_names(style: int, classnames: Sequence[str]) -> list[str]:
    """What a prompt style fills in: the class names, or their indices (style 6)."""
    return [str(i) for i in range(len(classnames))] if style == 6 else list(classnames)


@dataclass
class Queries:
    """What a teacher was asked, in items, not calls.

    Attributes:
        images, texts: asked for, hence paid where answers cost something. With a journal every
            attempt at a run counts: what was asked before a kill is paid, resumed or not.
        needed_images, needed_texts: embeddings that the run used. Those it did not ask for came
            from a cache.
        journal: file that counts what is asked as it happens, one line per request.
        restored: images and texts of a resume file, in case that its journal is elsewhere.
    """

    images: int = 0
    texts: int = 0
    needed_images: int = 0
    needed_texts: int = 0
    journal: Path | None = None
    restored: tuple[int, int] = (0, 0)

    def ask(self, *, images: int = 0, texts: int = 0) -> None:
        """Count items that are asked for."""
        self.images += images
        self.texts += texts
        if self.journal is not None:
            with errors_of_writing(self.journal), self.journal.open("a", encoding="utf-8") as file:
                file.write(f"{images} {texts}\n")

    def keep_in(self, journal: Path) -> None:
        """Keep all counts in a journal, after those that a killed attempt has left there."""
        journal.parent.mkdir(parents=True, exist_ok=True)
        text = journal.read_bytes().decode("ascii", "replace") if journal.is_file() else ""
        lines = re.findall(r"^(\d{1,12}) (\d{1,12})$", text, re.MULTILINE)  # a kill may cut one
        counts = [(0, 0), *((int(images), int(texts)) for images, texts in lines)]
        asked = self.images, self.texts
        self.images, self.texts = map(max, map(sum, zip(*counts)), self.restored)
        self.journal = journal
        self.ask(images=asked[0], texts=asked[1])

    def remove_journal(self) -> None:
        """The run has ended, its counts are recorded."""
        if self.journal is not None:
            self.journal.unlink(missing_ok=True)

    def state_dict(self) -> dict[str, int]:
        """For a resume file."""
        return {name: getattr(self, name) for name in COUNTS}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a resume file; the journal knows what was asked since it was written."""
        self.needed_images, self.needed_texts = state["needed_images"], state["needed_texts"]
        self.restored = state["images"], state["texts"]

    def as_dict(self) -> dict[str, int]:
        """For results.json."""
        return {
            "images": self.images,
            "texts": self.texts,
            "cached_images": max(self.needed_images - self.images, 0),
            "cached_texts": max(self.needed_texts - self.texts, 0),
        }


class Teacher(ABC):
    """F_I and F_T with their logit scale.

    Attributes:
        name: what results and caches call it.
        scale: exp(logit_scale).
        queries: counts of what was asked.
    """

    def __init__(self, name: str, scale: float) -> None:
        self.name = name
        self.scale = scale
        self.queries = Queries()

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), normalised as the student's -> unit embeddings (B, D)."""
        count = sum(ranks.gather(len(images)))
        self.queries.ask(images=count)
        self.queries.needed_images += count
        return F.normalize(self.answer_images(images).float(), dim=-1)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts -> unit embeddings (N, D)."""
        parts = [texts[i : i + TEXT_BATCH] for i in range(0, len(texts), TEXT_BATCH)]
        self.queries.ask(texts=len(texts))
        self.queries.needed_texts += len(texts)
        return torch.cat(
            [F.normalize(self.answer_texts(list(part)).float(), dim=-1) for part in parts]
        )

    @property
    def digest(self) -> str:
        """Identifies the text encoder for the cache on disk; empty: do not keep."""
        return ""

    @abstractmethod
    def answer_images(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D)."""

    @abstractmethod
    def answer_texts(self, texts: list[str]) -> Tensor:
        """N texts -> (N, D)."""


class Renormalise(nn.Module):
    """(x * std + mean - other_mean) / other_std, per channel."""

    gain: Tensor
    offset: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        other_mean: Sequence[float],
        other_std: Sequence[float],
    ) -> None:
        super().__init__()
        m, s, m_other, s_other = (
            torch.tensor(values).view(-1, 1, 1) for values in (mean, std, other_mean, other_std)
        )
        self.register_buffer("gain", s / s_other)
        self.register_buffer("offset", (m - m_other) / s_other)

    def forward(self, images: Tensor) -> Tensor:
        return images * self.gain + self.offset


class ClipTeacher(Teacher):
    """A CLIP backbone, frozen, eval mode, single precision.

    Args:
        clip: the backbone.
        renormalise: applied to the images first; None feeds the student's images as they are,
            which is what produced the published numbers.
    """

    def __init__(self, clip: CLIP, *, renormalise: nn.Module | None = None) -> None:
        super().__init__(getattr(clip, "backbone_name", "clip"), clip.logit_scale.exp().item())
        self.clip = clip
        self.renormalise = renormalise
        self.size = clip.visual.input_resolution

    def answer_images(self, images: Tensor) -> Tensor:
        if self.renormalise is not None:
            images = self.renormalise(images)
        if images.shape[-1] != self.size:  # a student of another input size than the teacher's
            images = F.interpolate(images, size=self.size, mode="bilinear", antialias=True)
        return self.clip.encode_image(images.to(self.clip.dtype))

    def answer_texts(self, texts: list[str]) -> Tensor:
        return self.clip.encode_text(self.clip.tokenize(texts))

    @property
    def digest(self) -> str:
        return weights_digest(self.clip)


class CallableTeacher(Teacher):
    """Any two functions.

    Args:
        encode_image: (B, 3, H, W) images as the student sees them -> (B, D).
        encode_text: list of N texts -> (N, D).
        scale: what a cosine is multiplied by to become a logit.
        name: for the results.
    """

    def __init__(
        self,
        encode_image: Callable[[Tensor], Tensor],
        encode_text: Callable[[list[str]], Tensor],
        *,
        scale: float = 100.0,
        name: str = "callable",
    ) -> None:
        super().__init__(name, scale)
        self.image_function = encode_image
        self.text_function = encode_text

    def answer_images(self, images: Tensor) -> Tensor:
        return self.image_function(images).to(images.device)

    def answer_texts(self, texts: list[str]) -> Tensor:
        return self.text_function(texts)


def class_embeddings(
    teacher: Teacher, classnames: Sequence[str], templates: Sequence[str], *, keep: bool = False
) -> Tensor:
    """t_c = normalise(mean over templates of normalise(F_T(template(name)))).

    Args:
        teacher: gives F_T.
        classnames: C names; "_" becomes a blank.
        templates: each holds one {}, or is a file of such.
        keep: store the result on disk, for teachers with a digest.

    Returns:
        (C, D) unit rows.

    Raises:
        ValueError: for a template without a place for the name.
    """
    templates = check_templates(templates, given_as="templates of a teacher")
    names = [words_of(name) for name in classnames]
    warn_of_same_words(classnames, names)
    prompts = [template.replace("{}", name) for template in templates for name in names]
    path = None
    if keep and teacher.digest:
        key = hashlib.sha256("\0".join([teacher.digest, *prompts]).encode()).hexdigest()[:32]
        path = cache_dir() / "texts" / f"{key}.pt"
        if path.is_file():
            teacher.queries.needed_texts += len(prompts)
            return torch.load(path, weights_only=True)
    rows = teacher.encode_text(prompts)  # (T * C, D)
    rows = rows.unflatten(0, (len(templates), len(names))).mean(dim=0)
    rows = F.normalize(rows, dim=-1)
    if path is not None:
        write_tensors(rows.cpu(), path)
    return rows
