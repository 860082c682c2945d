"""Models of open_clip that are not CLIP's layout: features, hooks, learned contexts, refusals."""

from functools import cache

import open_clip
import pytest
import torch
import torch.nn.functional as F

import clip
from clip import TowerHook
from clip.foreign import OpenCLIP
from clip.tokens import ForeignTokens
from tools.tiny_backbones import FAMILIES, SIDE, ToyTokens, tiny_backbone, tiny_model
from trainers.common.clip_encoder import backbone_input
from trainers.common.text.deep_prompts import ImagePromptHook, TextPromptHook
from trainers.common.text.encode import common_prefix_length, encode_prompts, encode_sentences
from trainers.common.text.learned import ContextPrompt, FrozenPrompts
from trainers.rpo import ReadOnlyPrompts, RPOSettings
from trainers.taskres.base import enhanced_base, regular_base

TEXTS = ["a photo of a cat.", "a photo of a red dog on grass.", "a photo of a bus."]
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
WITH_BLOCKS = sorted(set(FAMILIES) - {"resnet", "convnext", "mobileclip_s"})
WITH_TOKENS = sorted(set(FAMILIES) - {"hf_text"})
NOT_CAUSAL = ["clipa", "siglip", "coca"]

model_of = cache(tiny_model)


@cache
def backbone(name: str) -> clip.CLIP:
    if name not in FAMILIES:
        pytest.skip(f"this version of open_clip has no {name}")
    return tiny_backbone(name)


def pixels(name: str) -> torch.Tensor:
    side = backbone(name).visual.input_resolution
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


# --------------------------------------------------------------------- features
@pytest.mark.parametrize("name", FAMILIES)
def test_features_are_those_of_open_clip(name):
    theirs, ours = model_of(name)[0], backbone(name)
    images, tokens = pixels(name), ours.tokenize(TEXTS)

    expected = theirs.encode_image(images, normalize=False)
    torch.testing.assert_close(ours.encode_image(images), expected, **CLOSE)
    expected = theirs.encode_text(tokens.long(), normalize=False)
    torch.testing.assert_close(ours.encode_text(tokens), expected, **CLOSE)
    torch.testing.assert_close(encode_prompts(ours, tokens, shared=2), expected, **CLOSE)


@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_an_image_hook_that_does_nothing_changes_nothing(name):
    ours, images = backbone(name), pixels(name)
    seen = []

    class Seen(TowerHook):
        def block(self, i, block, x):
            seen.append((i, block.ln_1(x).shape))
            return block(x)

    states = ours.encode_image(images, hook=Seen(), stop=1)

    assert seen == [(0, states.shape)]
    plain = ours.encode_image(images)
    torch.testing.assert_close(ours.encode_image(images, hook=Seen()), plain, **CLOSE)
    torch.testing.assert_close(ours.encode_image(None, states=states, start=1), plain, **CLOSE)


@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_tokens_that_a_hook_appends_are_attended_to_and_not_pooled(name):
    ours, images = backbone(name), pixels(name)
    width = ours.visual.transformer.width
    first = torch.randn(3, width, generator=torch.Generator().manual_seed(1))

    class Spoiled(ImagePromptHook):
        all_rows = True

        def block(self, i, block, x):
            x = super().block(i, block, x)
            is_last = i == ours.visual.transformer.layers - 1
            return torch.cat([x[:-3], x[-3:] + 1000 * first[:, None]]) if is_last else x

    prompted = ours.encode_image(images, hook=ImagePromptHook(first))

    assert not torch.allclose(prompted, ours.encode_image(images), **CLOSE)
    torch.testing.assert_close(ours.encode_image(images, hook=Spoiled(first)), prompted, **CLOSE)


@pytest.mark.parametrize("name", ["eva02", "pe_core"])
def test_appended_tokens_have_no_rotary_position_as_the_class_token(name):
    ours = backbone(name)

    class Doubled(TowerHook):
        def embed(self, x):
            return torch.cat([x, x[:1]])

    states = ours.encode_image(pixels(name), hook=Doubled(), pool=False)

    torch.testing.assert_close(states[-1], states[0], **CLOSE)
    assert not torch.allclose(states[-1], states[1], **CLOSE)


@pytest.mark.parametrize("name", WITH_TOKENS)
def test_fed_embeddings_of_the_tokens_give_the_features_of_the_tokens(name):
    ours = backbone(name)
    tokens = ours.tokenize(TEXTS)
    plain = ours.encode_text(tokens)

    fed = ours.encode_text(tokens, embeddings=ours.token_embedding(tokens), hook=TowerHook())
    states = ours.encode_text(tokens, stop=1)

    torch.testing.assert_close(fed, plain, **CLOSE)
    again = ours.encode_text(tokens, states=states, start=1)
    torch.testing.assert_close(again, plain, **CLOSE)


@pytest.mark.parametrize("name", WITH_TOKENS)
@pytest.mark.parametrize("position", ["end", "front"])
def test_a_context_of_words_gives_the_features_of_the_sentence(name, position):
    ours = backbone(name)
    names = ["cat", "red_dog on grass"]
    layout = {"end": "a photo of a {}.", "front": "{} a photo of a."}[position]

    prompt = ContextPrompt(ours, names, n_ctx=4, ctx_init="a photo of a", position=position)

    sentences = [layout.format(name.replace("_", " ")) for name in names]
    expected = ours.encode_text(ours.tokenize(sentences))
    torch.testing.assert_close(prompt.raw_text_features(ours), expected, **CLOSE)


@pytest.mark.parametrize("name", ["siglip", "worldwide", "coca"])
def test_deep_text_prompts_stand_after_the_start_markers(name):
    ours = backbone(name)
    tokens = ours.tokenize(TEXTS[:1])
    states = ours.encode_text(tokens, stop=1)
    own = states[ours.text_start : ours.text_start + 2, 0]

    same = ours.encode_text(tokens, hook=TextPromptHook([own], ours.text_start))

    torch.testing.assert_close(same, ours.encode_text(tokens), **CLOSE)


@pytest.mark.parametrize("name", ["siglip", "worldwide", "coca"])
def test_prompts_with_frozen_blocks_give_the_features_of_the_prompts(name):
    ours = backbone(name)
    tokens = ours.tokenize(TEXTS)

    prompts = FrozenPrompts(ours, tokens, start=1, shared=common_prefix_length(ours, tokens))

    torch.testing.assert_close(prompts.encode(ours), ours.encode_text(tokens), **CLOSE)


# --------------------------------------------------------------------- what differs from CLIP
@pytest.mark.parametrize("name", NOT_CAUSAL)
def test_a_text_tower_that_is_not_causal_needs_the_whole_row(name):
    ours = backbone(name)
    tokens = ours.tokenize(TEXTS)
    end = int(ours.end_positions(tokens)[0]) + 1

    assert ours.prompt_lengths(tokens).tolist() == [ours.context_length] * 3
    with pytest.raises(ValueError, match=rf"{end} positions.*has {ours.context_length}.*tokenize"):
        ours.encode_text(tokens[:1, :end])
    with pytest.raises(ValueError, match="shared=2 tokens.*sees those after it"):
        ours.encode_text(tokens, shared=2)


def test_padding_takes_part_without_a_causal_mask():
    ours = backbone("siglip")
    tokens = ours.tokenize(TEXTS[:1])
    embeddings = ours.token_embedding(tokens).clone()
    embeddings[0, 20] += torch.arange(embeddings.shape[-1])  # after the end of the text

    changed = ours.encode_text(tokens, embeddings=embeddings)

    assert not torch.allclose(changed, ours.encode_text(tokens), **CLOSE)


def test_contexts_are_as_long_as_the_model_says():
    lengths = {name: backbone(name).context_length for name in ("clipa", "siglip", "coca")}

    assert lengths == {"clipa": 32, "siglip": 64, "coca": 76}
    with pytest.raises(RuntimeError, match="too long for context length 32"):
        backbone("clipa").tokenize(" ".join(["cat"] * 31))
    fits = backbone("clipa").tokenize(" ".join(["cat"] * 30))
    assert fits.shape == (1, 32) and backbone("clipa").end_positions(fits).tolist() == [31]


@pytest.mark.parametrize(
    ("kind", "start", "end"), [("bert", 1, 0), ("t5", 0, 1), ("gemma", 0, 1), ("xlm", 1, 2)]
)
def test_markers_are_learned_from_the_tokenizer(kind, start, end):
    tokens = ForeignTokens(ToyTokens(kind, 16))

    ids = tokens(["Two, cats", "a"], 16)

    assert (tokens.start, tokens.end) == (start, end)
    assert tokens.ends(ids).tolist() == [start + 2, start + 1]
    assert torch.equal(ids, tokens(["two cats.", "A!"], 16))  # its own rules fold the text
    assert torch.equal(ids, ToyTokens(kind, 16)(["two cats", "a"]))
    long = tokens(["a " * 20], 16, truncate=True)
    assert torch.equal(long, ToyTokens(kind, 16)(["a " * 20]))


def test_a_sentence_for_77_positions_is_cut_for_a_shorter_backbone_with_a_warning(caplog):
    ours = backbone("clipa")
    sentence = " ".join(["cat"] * 40)

    features = encode_sentences(ours, [sentence, "a cat"])

    cut = ours.encode_text(ours.tokenize([sentence, "a cat"], truncate=True))
    torch.testing.assert_close(features, cut, **CLOSE)
    assert "longer than the 32 positions of tiny/clipa are cut" in caplog.text
    with pytest.raises(RuntimeError, match="too long for context length 77"):
        encode_sentences(backbone("vit"), [" ".join(["cat"] * 80)])


def test_a_context_that_the_tokenizer_joins_with_the_name_is_refused():
    ours = tiny_backbone("siglip")
    ours.tokenizer.tokenizer = Joined("t5", 64)

    with pytest.raises(ValueError, match="1 tokens of 'X X'.*Give other words"):
        ContextPrompt(ours, ["cat"], n_ctx=2)


class Joined(ToyTokens):
    """Makes one token of two words."""

    def __call__(self, texts, context_length=None):
        return super().__call__([text.replace(" ", "") for text in texts], context_length)


def test_the_tokenizer_of_a_converted_model_is_the_models_own():
    model, theirs = model_of("vit")[0], ToyTokens("xlm", 77)

    ours = clip.open_clip_models.from_open_clip(model, theirs)

    assert isinstance(ours, clip.CLIP)
    assert torch.equal(ours.tokenize(["a cat"]), theirs(["a cat"]))


def test_token_ids_of_another_tokenizer_are_refused():
    ours = backbone("worldwide")
    with pytest.raises(ValueError, match="no end marker.*tokenize method of the backbone"):
        ours.encode_text(clip.tokenize(["a cat"]))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("siglip", {"PIXEL_MEAN": (0.5, 0.5, 0.5), "RESIZE": "squash", "INTERPOLATION": "bicubic"}),
        ("mobileclip_vit", {"PIXEL_STD": (1, 1, 1), "INTERPOLATION": "bilinear"}),
        ("clipa", {"PIXEL_MEAN": (0.485, 0.456, 0.406), "RESIZE": "squash"}),
        ("vitamin", {"SIZE": (SIDE, SIDE), "PIXEL_MEAN": open_clip.OPENAI_DATASET_MEAN}),
    ],
)
def test_images_are_prepared_as_the_backbone_says(name, expected):
    given = backbone_input(backbone(name))

    assert {key: given[key] for key in expected} == expected


def test_a_logit_bias_cancels_in_a_softmax_and_not_in_a_sigmoid():
    theirs, ours = model_of("siglip")[0], backbone("siglip")
    images, tokens = pixels("siglip"), ours.tokenize(TEXTS)
    cosines = F.normalize(ours.encode_image(images)) @ F.normalize(ours.encode_text(tokens)).T

    logits = ours.logit_scale.exp() * cosines

    expected = theirs.get_logits(images, tokens)[0]
    torch.testing.assert_close(logits.softmax(-1), expected.softmax(-1), **CLOSE)
    assert float(ours.logit_bias) == pytest.approx(-10, abs=1)
    torch.testing.assert_close((logits + ours.logit_bias).sigmoid(), expected.sigmoid(), **CLOSE)
    assert not torch.allclose(logits.sigmoid(), expected.sigmoid(), **CLOSE)
    assert backbone("vit").logit_bias is None


def test_the_enhanced_base_keeps_the_bias_of_the_projection():
    ours, names, templates = backbone("siglip"), ["cat", "bus"], ["a photo of a {}."]
    regular = regular_base(ours, names, templates, replace_underscores=True)

    weight = ours.text_projection.t()
    enhanced = enhanced_base(ours, names, templates, weight, replace_underscores=True)

    assert float(ours.text_projection_bias.abs().max()) > 0.01
    torch.testing.assert_close(enhanced, regular, **CLOSE)


def test_all_weights_are_in_half_precision_but_the_logit_scale():
    half = clip.open_clip_models.from_open_clip(*tiny_model("siglip"), precision="fp16")

    assert (half.dtype, half.logit_scale.dtype) == (torch.float16, torch.float32)
    features = half.encode_text(half.tokenize(TEXTS)).float()
    expected = backbone("siglip").encode_text(half.tokenize(TEXTS))
    torch.testing.assert_close(features, expected, rtol=0.02, atol=0.02)


# --------------------------------------------------------------------- what is refused
def test_towers_without_blocks_name_those_that_have_them():
    ours = backbone("mobileclip_s")
    assert not hasattr(ours.visual, "transformer")
    for options in ({"hook": TowerHook()}, {"pool": False}, {"stop": 1}):
        with pytest.raises(ValueError, match="no transformer blocks.*ViT-B/16.*SigLIP"):
            ours.encode_image(pixels("mobileclip_s"), **options)
    with pytest.raises(ValueError, match="no token features.*ViT-B/16"):
        ours.project_image(torch.zeros(1, 8))


def test_a_text_tower_that_only_encodes_names_those_that_take_prompts():
    ours = backbone("hf_text")
    tokens = ours.tokenize(TEXTS)
    for refused in (
        lambda: ours.token_embedding,
        lambda: ours.encode_text(tokens, embeddings=torch.zeros(3, 77, 8)),
        lambda: ours.project_text(torch.zeros(1, 8)),
        lambda: ContextPrompt(ours, ["cat"], n_ctx=4),
    ):
        with pytest.raises(ValueError, match="only encodes whole texts.*Backbones that work: Open"):
            refused()


def test_asking_whether_a_text_tower_has_internals_raises_nothing():
    assert not hasattr(backbone("hf_text"), "token_embedding")
    assert getattr(backbone("hf_text"), "ln_final", None) is None


def test_images_of_another_size_are_refused():
    for name in ("siglip", "convnext"):
        with pytest.raises(ValueError, match=f"this backbone takes {SIDE} x {SIDE}"):
            backbone(name).encode_image(torch.zeros(1, 3, 48, 48))


def test_a_model_that_cannot_become_our_clip_is_not_built_in_vain(monkeypatch):
    built = []
    monkeypatch.setattr(clip.open_clip_models, "build_clip", lambda *a, **k: built.append(a))

    wrapped = clip.open_clip_models.from_open_clip(*tiny_model("vit_wide_mlp"))

    assert isinstance(wrapped, OpenCLIP)
    assert not built


def test_weights_are_shared_with_the_given_model():
    theirs, tokenizer = tiny_model("siglip")
    ours = clip.open_clip_models.from_open_clip(theirs, tokenizer)
    own = {parameter.data_ptr() for parameter in ours.parameters()}

    assert {parameter.data_ptr() for parameter in theirs.parameters()} <= own


def test_the_class_says_what_it_is():
    assert isinstance(backbone("siglip"), OpenCLIP) and not isinstance(backbone("vit"), OpenCLIP)
    assert backbone("siglip").activation == "gelu"


@pytest.mark.parametrize("name", ["siglip", "coca"])
def test_what_reads_single_image_tokens_names_the_towers_that_have_them(name):
    ours = backbone(name)

    def read_only_prompts():
        method = ReadOnlyPrompts(ours, ["cat", "bus"], RPOSettings(k=2), template="a _")
        return method(ours, pixels(name))

    for refused in (read_only_prompts, lambda: ours.project_image(torch.zeros(1, 2, 64))):
        with pytest.raises(ValueError, match="Backbones that work: ViT-B/32.*plain and CLIPA ViTs"):
            refused()
