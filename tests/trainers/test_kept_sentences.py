"""Features of many frozen sentences are computed once."""

import pytest
import torch
from battery import backbone_file

from clip import load_backbone
from trainers.common.text import kept
from trainers.common.text.encode import encode_sentences

SENTENCES = ["a cat.", "a photo of a large dog.", "a cat.", "two birds."]


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """The sentences that were encoded, in a cache of this test's own; few are kept, too."""
    texts = []
    monkeypatch.setenv("VLTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kept, "KEPT_FROM", 2)
    encode = lambda clip, given: texts.extend(given) or encode_sentences(clip, given)  # noqa: E731
    monkeypatch.setattr(kept, "encode_sentences", encode)
    return texts


def test_sentences_come_from_the_disk_the_second_time(tmp_path, asked):
    clip = load_backbone(backbone_file(tmp_path, "micro_vit"))
    first = kept.kept_sentences(clip, SENTENCES)
    asked.clear()

    second = kept.kept_sentences(clip, SENTENCES[1:])

    assert not asked
    assert torch.equal(second, first[1:])
    assert torch.equal(first, encode_sentences(clip, SENTENCES))


def test_only_new_sentences_are_encoded(tmp_path, asked):
    clip = load_backbone(backbone_file(tmp_path, "micro_vit"))
    kept.kept_sentences(clip, SENTENCES)
    asked.clear()

    kept.kept_sentences(clip, [*SENTENCES, "a fish."])

    assert asked == ["a fish."]


def test_another_backbone_has_rows_of_its_own(tmp_path, asked):
    kept.kept_sentences(load_backbone(backbone_file(tmp_path, "micro_vit")), SENTENCES)
    asked.clear()

    kept.kept_sentences(load_backbone(backbone_file(tmp_path, "micro_vit", 1)), SENTENCES)

    assert asked == list(dict.fromkeys(SENTENCES))
