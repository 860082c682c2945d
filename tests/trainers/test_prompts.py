"""Learned and plain prompts: layouts, batching by length, recomputation, what is refused."""

import pytest
import torch

from clip import tokenize
from clip.model import build_clip
from golden_checks import tiny_clip
from trainers.common.checkpoints import import_state, load_state
from trainers.common.text.encode import (
    common_prefix_length,
    encode_prompts,
    encode_sentences,
    zero_shot_classifier,
)
from trainers.common.text.learned import ContextPrompt, FrozenPrompts

NAMES = ["cat", "golden_retriever", "Boeing 737-800", "dog"]


@pytest.fixture(scope="module")
def clip():
    model = build_clip(tiny_clip.torch_state_dict("tiny_vit", 0))
    return model.requires_grad_(False)


def prompt(clip, **options) -> ContextPrompt:
    torch.manual_seed(0)
    return ContextPrompt(clip, NAMES, **{"n_ctx": 3, **options})


def plain_text_features(clip, embeddings, tokens):
    """All positions, one batch, no cut: the computation that the fast path must equal."""
    x = embeddings + clip.positional_embedding[: embeddings.shape[1]]
    x = x.permute(1, 0, 2)
    length = x.shape[0]
    mask = torch.full((length, length), float("-inf")).triu(1)
    for block in clip.transformer.resblocks:
        x = block(x, mask)
    x = clip.ln_final(x)
    return x[tokens.argmax(dim=-1), torch.arange(len(tokens))] @ clip.text_projection


def test_prompts_of_different_lengths_keep_their_order(clip):
    tokens = tokenize([f"a photo of a {name}." for name in NAMES])

    together = encode_prompts(clip, tokens)

    one_by_one = torch.cat([encode_prompts(clip, row[None]) for row in tokens])
    torch.testing.assert_close(together, one_by_one, rtol=1e-5, atol=1e-5)


def test_grouped_and_cut_prompts_equal_the_plain_computation(clip):
    learned = prompt(clip)
    embeddings = learned.embeddings()

    fast = encode_prompts(clip, learned.tokenized_prompts, embeddings=embeddings)

    plain = plain_text_features(clip, embeddings, learned.tokenized_prompts)
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)


def test_recomputed_chunks_give_the_same_features_and_gradients(clip):
    learned = prompt(clip)
    gradients = []
    for chunk in (0, 1):
        embeddings = learned.embeddings()
        features = encode_prompts(
            clip, learned.tokenized_prompts, embeddings=embeddings, chunk=chunk
        )
        learned.ctx.grad = None
        features.square().sum().backward()
        gradients.append((features.detach(), learned.ctx.grad.clone()))

    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("start", [0, 4])
def test_frozen_prompts_equal_prompts_encoded_from_the_first_block(clip, start):
    tokens = tokenize([f"a photo of a {name.replace('_', ' ')}." for name in NAMES])
    shared = common_prefix_length(clip, tokens)

    frozen = FrozenPrompts(clip, tokens, start=start, shared=shared).encode(clip)

    assert shared == 5
    torch.testing.assert_close(frozen, encode_prompts(clip, tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_word_context_at_any_position_holds_the_same_tokens(clip, position):
    learned = prompt(clip, ctx_init="a photo of a", position=position)
    rows = learned.embeddings()
    words = clip.token_embedding(tokenize("a photo of a"))[0, 1:5]

    before = {"end": 4, "middle": 2, "front": 0}[position]
    start = 1 + learned.name_lengths[1] if position == "front" else 1

    if position == "front":
        torch.testing.assert_close(rows[1, start : start + 4], words)
    else:
        torch.testing.assert_close(rows[1, 1 : 1 + before], words[:before])


def test_sentences_come_back_in_the_order_given(clip):
    sentences = ["a photo of many things in a row.", "cat", "a dog."]

    features = encode_sentences(clip, sentences)

    for row, sentence in zip(features, sentences):
        expected = encode_sentences(clip, [sentence])[0]
        torch.testing.assert_close(row, expected, rtol=1e-5, atol=1e-5)


def test_equal_sentences_get_equal_features_wherever_they_stand(clip, monkeypatch):
    monkeypatch.setattr("trainers.common.text.encode.TEXT_BATCH", 3)
    sentences = ["a missile", *(f"a {name}" for name in NAMES), "an origami canoe", "a missile"]

    features = encode_sentences(clip, sentences)

    assert torch.equal(features[0], features[-1])
    assert len(features.unique(dim=0)) == len(sentences) - 1


def test_class_vectors_are_unit_rows(clip):
    classifier = zero_shot_classifier(clip, NAMES, ["a {}.", "the {} in a game."])

    torch.testing.assert_close(classifier.norm(dim=-1), torch.ones(4), rtol=0, atol=1e-5)


def test_an_unknown_position_names_the_known_ones(clip):
    with pytest.raises(ValueError, match="'last'; expected one of end, middle, front"):
        prompt(clip, position="last")


def test_a_prompt_that_does_not_fit_says_what_to_shorten(clip):
    with pytest.raises(ValueError, match="80 context tokens does not fit.*N_CTX"):
        prompt(clip, n_ctx=80)


def test_another_context_length_is_refused_with_the_setting_to_change(clip):
    trained, other = prompt(clip, n_ctx=4), prompt(clip, n_ctx=2)

    with pytest.raises(ValueError, match=r"trained with 4 context tokens.*\(N_CTX\) to 4"):
        import_state(other, trained.state_dict(), NAMES, NAMES)


def test_a_context_of_another_width_is_refused_with_the_backbone_as_the_reason(clip):
    trained = prompt(clip, n_ctx=4).state_dict()
    trained["ctx"] = trained["ctx"][:, :-8]

    with pytest.raises(ValueError, match="vectors of width 56.*takes 64.*--backbone") as caught:
        import_state(prompt(clip, n_ctx=4), trained, NAMES, NAMES)
    assert "N_CTX" not in str(caught.value)


def test_words_make_one_context_for_all_classes(clip):
    learned = prompt(clip, ctx_init="a photo of a", class_specific=True)

    assert learned.ctx.dim() == 2


def test_a_class_specific_context_of_another_number_of_classes_says_so(clip):
    trained = prompt(clip, class_specific=True)
    other = ContextPrompt(clip, NAMES[:2], n_ctx=3, class_specific=True)

    with pytest.raises(ValueError, match="context for each of 4 classes, this run has 2"):
        import_state(other, trained.state_dict(), None, NAMES[:2])


def test_a_class_specific_context_serves_no_other_classes(clip):
    trained = prompt(clip, class_specific=True)

    with pytest.raises(ValueError, match="serves only the classes"):
        import_state(trained, trained.state_dict(), NAMES, ["other", *NAMES[1:]])


def test_a_context_moves_to_other_class_names(clip):
    trained = prompt(clip)
    other = ContextPrompt(clip, ["apple", "a long pear name"], n_ctx=3)
    own_suffix = other.token_suffix.clone()

    load_state(other, trained.state_dict(), NAMES, ["x"], "file")

    assert torch.equal(other.ctx, trained.ctx)
    assert torch.equal(other.token_suffix, own_suffix)


@pytest.mark.parametrize("words", ["a  photo of a", "a_photo__of_a_", " a photo of\ta "])
def test_blanks_in_a_context_are_no_context_tokens(clip, words):
    learned = prompt(clip, ctx_init=words)

    torch.testing.assert_close(learned.ctx, prompt(clip, ctx_init="a photo of a").ctx)


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_a_word_of_several_tokens_is_learned_whole(clip, position):
    learned = prompt(clip, ctx_init="a close-up of a", position=position)
    name = clip.token_embedding(tokenize(NAMES[1].replace("_", " ")))[0, 1:3]

    assert len(learned.ctx) == 6
    before = {"end": 6, "middle": 3, "front": 0}[position]
    torch.testing.assert_close(learned.embeddings()[1, 1 + before : 3 + before], name)
