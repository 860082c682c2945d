"""The tokenizer beyond the golden strings."""

from __future__ import annotations

import pytest
import torch

from clip import clip, tokenize
from clip.simple_tokenizer import SimpleTokenizer


def test_one_string_and_a_list_of_it_give_the_same_ids():
    assert torch.equal(tokenize("a cat"), tokenize(["a cat"]))
    assert tokenize("a cat").tolist()[0][:5] == [49406, 320, 2368, 49407, 0]
    assert tokenize("a cat").dtype == torch.int32
    assert tokenize(["a", "b", "c"], context_length=9).shape == (3, 9)


def test_a_text_that_is_too_long_is_an_error_unless_truncated():
    text = "cat " * 76

    with pytest.raises(RuntimeError, match=r"^Input cat .* is too long for context length 77$"):
        tokenize(text)
    assert tokenize(text, truncate=True)[0, -1] == 49407


def test_decoding_gives_the_clean_text_back():
    tokenizer = clip._tokenizer
    text = tokenizer.decode(tokenizer.encode("A  caf\u00e9 &amp; bar"))

    assert text == "a caf\u00e9 & bar "


def test_encodings_are_the_callers_to_change():
    tokenizer = clip._tokenizer
    tokenizer.encode("a dog").append(0)

    assert tokenizer.encode("a dog") == [320, 1929]


def test_special_strings_have_their_ids():
    assert clip._tokenizer.encoder["<|startoftext|>"] == 49406
    assert clip._tokenizer.encode("<|endoftext|>") == [49407]


def test_another_merges_file_is_refused(tmp_path):
    file = tmp_path / "merges.txt.gz"
    file.write_bytes(b"something else")

    with pytest.raises(ValueError, match="open_clip_torch"):
        SimpleTokenizer(file)
