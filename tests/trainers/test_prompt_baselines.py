"""Prompt-learning baselines beyond their golden cases."""

import pytest
import torch
import torch.nn.functional as F
from battery import CLASSNAMES, made_trainer

from clip.model import build_clip
from golden_checks import tiny_clip
from golden_checks.rpo import masked_logits
from trainers.cocoop import CoCoOpPrompt, CoCoOpSettings
from trainers.common.checkpoints import load_state
from trainers.common.text.encode import template_features, zero_shot_classifier
from trainers.common.text.independent_prompts import IndependentPrompts, VisualPrompt
from trainers.common.text.learned import ContextPrompt
from trainers.ivlp import IVLPSettings, VPTSettings
from trainers.lasp import LASPPrompt, LASPSettings, lasp_groups
from trainers.maple import MaPLePrompt, MaPLeSettings
from trainers.proda import ProDASettings, PromptDistribution, PromptOrder
from trainers.promptsrc import (
    GaussianAverage,
    PromptSRCSettings,
    SelfRegulatedPrompts,
    gaussian_weights,
)
from trainers.rpo import ReadOnlyPrompts, RPOSettings, SentenceSettings

NAMES = ["cat", "golden_retriever", "Boeing 737-800", "dog"]
TEMPLATES = ["a photo of a {}.", "art of the {}."]
LABELS = torch.tensor([0, 3, 1])


@pytest.fixture(scope="module")
def clip():
    model = build_clip(tiny_clip.torch_state_dict("tiny_vit", 0))
    return model.requires_grad_(False)


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def promptsrc(clip, chunk=0):
    return SelfRegulatedPrompts(
        clip,
        NAMES,
        PromptSRCSettings(n_ctx_vision=3, prompt_depth_text=4, prompt_depth_vision=3),
        frozen_text=template_features(clip, NAMES, TEMPLATES).mean(dim=0),
        chunk=chunk,
    )


def lasp(clip, chunk=0, **options):
    given = {key: options.pop(key) for key in ("extra_names", "virtual") if key in options}
    own = {"lasp_prompts": TEMPLATES, "lasp_loss_weight": 5.0, "enable_correction": True}
    settings = LASPSettings(ctx_init="a photo of a", **{**own, **options})
    return LASPPrompt(clip, NAMES, settings, chunk=chunk, **given)


def ivlp(clip, chunk=0, **options):
    settings = IVLPSettings(**{"prompt_depth_text": 3, "prompt_depth_vision": 3, **options})
    return IndependentPrompts(clip, NAMES, settings, chunk=chunk)


BUILDERS = {
    "CoOp": lambda clip, chunk=0: ContextPrompt(clip, NAMES, n_ctx=3, chunk=chunk),
    "CoCoOp": lambda clip, chunk=0: CoCoOpPrompt(clip, NAMES, CoCoOpSettings(n_ctx=3), chunk=chunk),
    "MaPLe": lambda clip, chunk=0: MaPLePrompt(
        clip, NAMES, MaPLeSettings(prompt_depth=3), chunk=chunk
    ),
    "IVLP": ivlp,
    "RPO": lambda clip, chunk=0: ReadOnlyPrompts(
        clip, NAMES, RPOSettings(k=3), template="a photo of a _.", chunk=chunk
    ),
    "LASP": lambda clip, chunk=0: lasp(clip, chunk, enable=False),
    "ProDA": lambda clip, chunk=0: PromptDistribution(
        clip, NAMES, ProDASettings(n_prompt=4, n_ctx=4), chunk=chunk
    ),
}


def build(name, clip, chunk=0):
    torch.manual_seed(0)
    return BUILDERS[name](clip, chunk)


def gradients(clip, method, images) -> dict[str, torch.Tensor]:
    loss = method.losses(clip, method.raw_image_features(clip, images), LABELS)["loss"]
    loss.backward()
    return {name: p.grad for name, p in method.named_parameters()}


@pytest.mark.parametrize("name", BUILDERS)
def test_chunked_text_encoding_gives_the_same_gradients(name, clip, images):
    whole, chunked = build(name, clip), build(name, clip, chunk=2)

    expected = gradients(clip, whole, images)

    torch.testing.assert_close(gradients(clip, chunked, images), expected, rtol=1e-3, atol=1e-4)


def test_a_context_shared_by_all_classes_is_encoded_once(clip):
    method = build("CoOp", clip)

    shared = method.raw_text_features(clip)

    single = [ContextPrompt(clip, [name], n_ctx=3) for name in NAMES]
    for prompt in single:
        prompt.ctx.data.copy_(method.ctx)
    expected = torch.cat([prompt.raw_text_features(clip) for prompt in single])
    assert method.shared_length == 4
    torch.testing.assert_close(shared, expected, rtol=1e-4, atol=1e-5)


def test_many_images_of_cocoop_equal_one_at_a_time(clip, images):
    method = build("CoCoOp", clip).eval()
    unit = method.image_features(method.raw_image_features(clip, images))

    together = method.logits(clip, unit)

    torch.testing.assert_close(
        together, torch.cat([method.logits(clip, row[None]) for row in unit]), rtol=1e-4, atol=1e-4
    )


# ------------------------------------------------------------------- IVLP, VPT
def test_without_image_prompts_the_image_tower_is_plain(clip, images):
    method = ivlp(clip, prompt_depth_vision=0)

    assert torch.equal(method.raw_image_features(clip, images), clip.encode_image(images))
    assert not any(name.startswith("vision") for name, _ in method.named_parameters())


def test_vpt_keeps_its_class_vectors(clip, images):
    text = zero_shot_classifier(clip, NAMES, ["a photo of a {}."])
    method = VisualPrompt(clip, text, VPTSettings(n_ctx_vision=3, prompt_depth_vision=2))

    grads = gradients(clip, method, images)

    assert set(grads) == {"vision.first", "vision.deep.0"}
    assert torch.equal(method.text_features(clip), text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_depth_text": 13}, "PROMPT_DEPTH_TEXT is 13; expected 1 to 12"),
        ({"prompt_depth_vision": 13}, "PROMPT_DEPTH_VISION is 13"),
        ({"n_ctx_vision": 0}, "N_CTX_VISION is 0"),
        ({"n_ctx_text": 0}, "N_CTX_TEXT is 0"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(clip, options, message):
    with pytest.raises(ValueError, match=message):
        ivlp(clip, **options)


# ------------------------------------------------------------------- PromptSRC
def test_promptsrc_chunked_text_encoding_gives_the_same_gradients(clip, images):
    results = []
    for chunk in (0, 2):
        torch.manual_seed(0)
        method = promptsrc(clip, chunk)
        frozen = method.frozen_image_features(clip, images)
        raw = method.raw_image_features(clip, images)
        method.losses(clip, raw, LABELS, frozen=frozen)["loss"].backward()
        results.append({name: p.grad for name, p in method.named_parameters()})

    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-4)


def test_the_average_of_all_epochs_weighs_by_the_gaussian():
    module = torch.nn.Linear(2, 2)
    module.bias.requires_grad_(False)
    average, seen = GaussianAverage(2.0, 1.0, 3), []
    bias = module.bias.detach().clone()
    for epoch in range(3):
        module.weight.data.normal_()
        seen.append(module.weight.detach().clone())
        average.add(module, epoch)

    average.load_into(module)

    expected = sum(w * value for w, value in zip(gaussian_weights(2.0, 1.0, 3), seen))
    torch.testing.assert_close(module.weight.detach(), expected.float())
    assert torch.equal(module.bias, bias)


def test_an_interrupted_promptsrc_run_ends_with_the_same_average(tmp_path, monkeypatch):
    monkeypatch.setenv("VLTUNE_RESUME_SECONDS", "0")
    settings = ("OPTIM.MAX_EPOCH", 3, "TRAINER.PROMPTSRC.GPA_MEAN", 2.0)
    whole = made_trainer("PromptSRC", tmp_path, *settings)
    whole.train()
    cut = ("OUTPUT_DIR", str(tmp_path / "cut"))
    first = made_trainer("PromptSRC", tmp_path, *settings, *cut)

    def interrupt():
        if first.epoch == 2:
            raise KeyboardInterrupt

    first.before_epoch = interrupt
    with pytest.raises(KeyboardInterrupt):
        first.train()
    second = made_trainer("PromptSRC", tmp_path, *settings, *cut)
    second.train()

    assert second.start_epoch > 0
    for name, value in whole.method.state_dict().items():
        assert torch.equal(second.method.state_dict()[name], value), name


def test_a_gaussian_without_width_is_refused(tmp_path):
    with pytest.raises(ValueError, match="GPA_STD is 0"):
        made_trainer("PromptSRC", tmp_path, "TRAINER.PROMPTSRC.GPA_STD", 0.0)


# ------------------------------------------------------------------- RPO
def test_read_only_prompts_equal_the_masked_towers(clip, images):
    method = build("RPO", clip).eval()

    with torch.no_grad():
        fast = method(clip, images)

    torch.testing.assert_close(fast, masked_logits(clip, method, images), rtol=1e-4, atol=1e-4)


def test_prompts_beyond_the_context_are_refused(clip):
    with pytest.raises(ValueError, match=r"TRAINER\.RPO\.K 70 prompts exceed the 77"):
        ReadOnlyPrompts(clip, NAMES, RPOSettings(k=70), template="a photo of a _.")


@pytest.mark.parametrize("template", ["a photo of a {}.", "_ and _"])
def test_a_sentence_without_its_one_slot_is_refused(template):
    with pytest.raises(ValueError, match=r"DATASET\.PROMPT"):
        SentenceSettings(prompt=template)


def test_rpo_keeps_underscores_of_class_names(clip):
    method, spaced = (
        ReadOnlyPrompts(clip, [name], RPOSettings(), template="a photo of a _.")
        for name in ("golden_retriever", "golden retriever")
    )

    assert not torch.equal(method.tokenized_prompts, spaced.tokenized_prompts)


# ------------------------------------------------------------------- LASP
def test_lasp_classifies_among_its_own_classes_only(clip, images):
    method = lasp(clip, extra_names=["zebra", "train"])

    assert method.text_features(clip).shape[0] == len(NAMES)
    assert method.all_text_features(clip).shape[0] == len(NAMES) + 2
    assert method.written.shape[:2] == (len(TEMPLATES), len(NAMES) + 2)


def test_virtual_classes_compete_in_training(clip, images):
    method = lasp(clip, extra_names=["zebra", "train"], virtual=True)

    assert method(clip, images).shape == (3, len(NAMES) + 2)


def test_lasp_without_text_loss_is_plain_prompting(clip, images):
    method = lasp(clip, enable=False, enable_correction=False, finetune_vit_ln=False)

    assert set(gradients(clip, method, images)) == {"ctx"}
    assert lasp_groups(method, 0.1) is None


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_layer_norms_learn_at_a_share_of_the_rate(tmp_path, share):
    trainer = made_trainer(
        "LASP", tmp_path, "OPTIM.LR", 0.1, "TRAINER.LASP.LN_LR_MULT", share, "OPTIM.WARMUP_EPOCH", 0
    )

    norms, others = trainer.optim.param_groups

    assert (norms["lr"], others["lr"]) == pytest.approx((0.1 * share, 0.1))
    assert len(norms["params"]) == 4 * trainer.clip.visual.transformer.layers


@pytest.mark.parametrize("key", ["LN_LR_MULT", "GRAD_CLIP"])
def test_a_lasp_factor_of_zero_is_refused(tmp_path, key):
    with pytest.raises(ValueError, match=rf"TRAINER\.LASP\.{key} is 0\.0; expected above 0"):
        made_trainer("LASP", tmp_path, f"TRAINER.LASP.{key}", 0.0)


def test_untouched_layer_norms_leave_the_image_tower_as_it_is(clip, images):
    method = lasp(clip)

    assert torch.equal(method.raw_image_features(clip, images), clip.encode_image(images))


def test_noise_comes_in_half_of_the_steps(clip):
    method = lasp(clip)
    torch.manual_seed(0)

    drawn = [method.draw_noise() is not None for _ in range(200)]

    assert 70 < sum(drawn) < 130


@pytest.mark.parametrize("virtual", [False, True])
def test_lasp_evaluates_base_classes_without_the_new_names(tmp_path, monkeypatch, virtual):
    extra = ["zebra", "train"]
    monkeypatch.setattr("trainers.lasp.LASP.extra_names", lambda self: extra)
    trainer = made_trainer("LASP", tmp_path, "DATASET.INCLUDE_ALL_CLASSES", virtual)
    shapes = []
    monkeypatch.setattr(trainer.evaluator, "process", lambda s, y: shapes.append(s.shape[1]))
    monkeypatch.setattr(trainer.evaluator, "evaluate", lambda: {"accuracy": 0.0})

    trainer.test()

    assert set(shapes) == {len(CLASSNAMES)}
    assert len(trainer.method.all_text_features(trainer.clip)) == len(CLASSNAMES) + len(extra)


@pytest.mark.parametrize("virtual", [False, True])
def test_lasp_does_not_encode_extra_names_in_an_evaluation(tmp_path, monkeypatch, virtual):
    monkeypatch.setattr("trainers.lasp.LASP.extra_names", lambda self: ["zebra", "a long train"])
    trainer = made_trainer("LASP", tmp_path, "DATASET.INCLUDE_ALL_CLASSES", virtual)
    encoded, encode = [], trainer.clip.encode_text
    monkeypatch.setattr(
        trainer.clip,
        "encode_text",
        lambda tokens, **given: encoded.extend(tokens) or encode(tokens, **given),
    )
    logits, expected = [], []
    monkeypatch.setattr(trainer.evaluator, "process", lambda s, y: logits.append(s))
    monkeypatch.setattr(trainer.evaluator, "evaluate", lambda: {"accuracy": 0.0})

    trainer.test()

    assert len(encoded) == len(CLASSNAMES)
    with torch.no_grad():
        text = trainer.method.all_text_features(trainer.clip)[: len(CLASSNAMES)]
        for batch in trainer.test_loader:
            raw = trainer.raw_features(batch["img"])
            image_features = trainer.method.image_features(raw)
            expected.append(trainer.method.logits(trainer.clip, image_features, text))
    torch.testing.assert_close(torch.cat(logits), torch.cat(expected), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("virtual", [False, True])
def test_the_classes_of_lasp_are_the_first_of_all_its_names(clip, virtual):
    method = lasp(clip, extra_names=["zebra", "a long train"], virtual=virtual)
    method.w.data.normal_()

    features = method.text_features(clip)

    whole = method.all_text_features(clip)
    torch.testing.assert_close(features, whole[: method.count], rtol=1e-5, atol=1e-6)


def test_lasp_learns_the_names_that_the_subset_left_out(tmp_path):
    opts = ("DATASET.SUBSAMPLE_CLASSES", "base")

    trainer = made_trainer("LASP", tmp_path, *opts)

    assert trainer.classnames == list(CLASSNAMES[:2])
    assert trainer.extra_names() == [CLASSNAMES[2]]
    assert trainer.method.written.shape[1] == len(CLASSNAMES)


def test_gradients_are_clipped_with_amp_only(tmp_path):
    norms = {}
    for precision in ("fp32", "amp"):
        out = ("OUTPUT_DIR", str(tmp_path / precision))
        trainer = made_trainer("LASP", tmp_path, *out, "TRAINER.LASP.PREC", precision)
        raw = trainer.raw_features(torch.randn(3, 3, 32, 32))
        loss = 100 * trainer.method.losses(trainer.clip, raw, LABELS.clamp(max=2))["loss"]
        trainer.optimise(loss)
        grads = [p.grad.flatten() for p in trainer.method.parameters() if p.grad is not None]
        norms[precision] = torch.cat(grads).norm().item()

    assert norms["amp"] == pytest.approx(1.0, rel=1e-3)
    assert norms["fp32"] > 2.0


# ------------------------------------------------------------------- ProDA
def test_every_pass_visits_every_prompt_once():
    torch.manual_seed(0)
    order = PromptOrder(8, 4)

    passes = [order.next() + order.next() for _ in range(3)]

    assert all(sorted(visited) == list(range(8)) for visited in passes)
    assert passes[0] != passes[1]


def test_an_interrupted_pass_goes_on_where_it_was(tmp_path):
    trainer = made_trainer("ProDA", tmp_path)
    first = trainer.order.next()
    other = made_trainer("ProDA", tmp_path, "OUTPUT_DIR", str(tmp_path / "other"))

    other.load_extra_state(trainer.extra_state())

    assert sorted(first + other.order.next()) == list(range(8))


def test_prompt_batches_that_do_not_divide_are_refused(tmp_path):
    with pytest.raises(ValueError, match="N_PROMPT 8 is not a multiple of PROMPT_BS 3"):
        made_trainer("ProDA", tmp_path, "TRAINER.PRODA.PROMPT_BS", 3)


def test_the_class_name_stands_in_three_places(clip):
    method = PromptDistribution(clip, NAMES, ProDASettings(n_prompt=8))

    places = [method.position_of(k) for k in range(8)]

    assert places == ["front"] * 2 + ["middle"] * 2 + ["end"] * 4
    single = PromptDistribution(clip, NAMES, ProDASettings(n_prompt=1, prompt_bs=1))
    assert single.position_of(0) == "end"


def test_the_bound_equals_the_covariance_of_the_definition(clip):
    method = PromptDistribution(clip, NAMES, ProDASettings(n_prompt=4))
    features = F.normalize(torch.randn(4, len(NAMES), 64), dim=-1)
    unit, scale = F.normalize(torch.randn(3, 64), dim=-1), clip.logit_scale.exp()

    actual = method.bounded_logits(clip, unit, features, LABELS)

    centred = features - features.mean(dim=0)
    sigma = torch.einsum("kid,kjd->dij", centred, centred) / 5
    for b, y in enumerate(LABELS):
        for c in range(len(NAMES)):
            spread = sigma[:, y, y] + sigma[:, c, c] - 2 * sigma[:, y, c]
            expected = scale * unit[b] @ features.mean(dim=0)[c]
            expected = expected + scale**2 / 2 * (unit[b] ** 2 * spread).sum()
            torch.testing.assert_close(actual[b, c], expected, rtol=1e-4, atol=1e-3)


# ------------------------------------------------------------------- settings
def test_a_context_without_tokens_is_refused(clip):
    with pytest.raises(ValueError, match="0 context tokens.*N_CTX"):
        ContextPrompt(clip, NAMES, n_ctx=0)


def test_fewer_initial_words_than_prompt_tokens_are_refused(clip):
    with pytest.raises(ValueError, match="CTX_INIT 'photo' has 1 token.*2 prompt tokens"):
        MaPLePrompt(clip, NAMES, MaPLeSettings(ctx_init="photo", prompt_depth=3))


@pytest.mark.parametrize("name", ["KgCoOp", "ProGrad"])
def test_a_class_name_in_front_is_refused_where_it_would_be_ignored(name, tmp_path):
    with pytest.raises(ValueError, match="CLASS_TOKEN_POSITION is 'front'; expected end"):
        made_trainer(name, tmp_path, "TRAINER.COOP.CLASS_TOKEN_POSITION", "front")


def test_prograd_needs_a_template_that_ends_with_the_name(tmp_path):
    template = ("DATASET.TEMPLATES", ["a photo of a {}, a type of pet."])

    with pytest.raises(ValueError, match="must end with ' {}.'"):
        made_trainer("ProGrad", tmp_path, *template)


def test_another_loss_than_prograds_is_refused(tmp_path):
    with pytest.raises(ValueError, match="LOSS.NAME is 'ce'"):
        made_trainer("ProGrad", tmp_path, "LOSS.NAME", "ce")


# ------------------------------------------------------------------- official files
def test_prompts_are_picked_from_an_official_whole_model_file(clip):
    torch.manual_seed(3)
    source, target = build("MaPLe", clip), build("MaPLe", clip)
    target.ctx.data.zero_()
    official = {f"prompt_learner.{k}": v for k, v in source.state_dict().items()}
    official |= {"image_encoder.conv1.weight": torch.zeros(1), "logit_scale": torch.zeros(())}

    load_state(target, official, None, [], "file")

    assert torch.equal(target.ctx, source.ctx)


def test_official_files_of_cocoop_serve_other_class_names(clip):
    torch.manual_seed(3)
    source, target = (
        CoCoOpPrompt(clip, ["one", "two words"], CoCoOpSettings(n_ctx=3)),
        build("CoCoOp", clip),
    )
    suffix = target.token_suffix.clone()

    load_state(target, source.state_dict(), None, NAMES, "file")

    assert torch.equal(target.ctx, source.ctx)
    assert torch.equal(target.meta_net.linear1.weight, source.meta_net.linear1.weight)
    assert torch.equal(target.token_suffix, suffix)


@pytest.mark.parametrize("prefix", ["", "prompt_learner."])
def test_prompts_of_a_deeper_run_are_refused_not_cut(prefix, clip):
    deep = MaPLePrompt(clip, NAMES, MaPLeSettings(prompt_depth=4))
    state = {f"{prefix}{key}": value for key, value in deep.state_dict().items()}

    with pytest.raises(ValueError, match="compound_prompts_text.2 is unknown to this run"):
        load_state(build("MaPLe", clip), state, None, [], "file")


def test_image_prompts_are_not_dropped_where_a_run_has_none(clip):
    state = ivlp(clip).state_dict()

    with pytest.raises(ValueError, match="vision.first is unknown to this run"):
        load_state(ivlp(clip, prompt_depth_vision=0), state, None, [], "file")


def test_a_whole_official_model_of_lasp_serves_a_run_without_its_norms(clip):
    source = lasp(clip, enable=False)
    state = {f"prompt_learner.{k}": v for k, v in source.state_dict().items() if "norm" not in k}
    state |= {f"image_encoder.{k}": v for k, v in clip.visual.state_dict().items()}
    target = lasp(clip, enable=False)

    load_state(target, state, None, [], "file")

    weight = target.vision_norms[0].ln_1.weight
    assert torch.equal(weight, clip.visual.transformer.resblocks[0].ln_1.weight)


def official_lasp(clip, correction):
    """State of an official whole model; w has this value."""
    source = lasp(clip, enable=False, finetune_vit_ln=False)
    source.w.data.fill_(correction)
    state = {f"prompt_learner.{key}": value for key, value in source.state_dict().items()}
    return state | {f"image_encoder.{k}": v for k, v in clip.visual.state_dict().items()}


@pytest.mark.parametrize("tune_norms", [False, True])
def test_the_correction_of_an_official_lasp_file_is_not_dropped(clip, tune_norms):
    target = lasp(clip, enable=False, enable_correction=False, finetune_vit_ln=tune_norms)

    with pytest.raises(ValueError, match=r"TRAINER\.LASP\.ENABLE_CORRECTION True"):
        load_state(target, official_lasp(clip, 0.5), None, [], "file")


def test_an_official_lasp_file_without_correction_serves_a_run_without_it(clip):
    target = lasp(clip, enable=False, enable_correction=False, finetune_vit_ln=False)

    load_state(target, official_lasp(clip, 0.0), None, [], "file")

    assert target.w is None


@pytest.mark.parametrize("is_official", [False, True])
def test_tuned_layer_norms_of_a_lasp_file_are_not_dropped(clip, is_official):
    source = lasp(clip, enable=False)
    source.vision_norms[3].ln_2.bias.data += 0.01
    state = source.state_dict()
    if is_official:
        norm = "image_encoder.transformer.resblocks.3.ln_2.bias"
        state = official_lasp(clip, 0.0) | {norm: source.vision_norms[3].ln_2.bias.detach()}

    with pytest.raises(ValueError, match=r"tuned LayerNorms.*TRAINER\.LASP\.FINETUNE_VIT_LN True"):
        load_state(lasp(clip, enable=False, finetune_vit_ln=False), state, None, [], "file")


def test_a_half_precision_file_with_the_layer_norms_of_clip_serves_a_run_that_keeps_them(clip):
    state = {key: value.half() for key, value in official_lasp(clip, 0.0).items()}
    target = lasp(clip, enable=False, finetune_vit_ln=False)

    load_state(target, state, None, [], "file")

    assert torch.equal(target.ctx, state["prompt_learner.ctx"].float())


@pytest.mark.parametrize("name", ["MaPLe", "IVLP", "RPO", "LASP", "CoCoOp"])
def test_a_file_of_another_method_is_refused(name, clip):
    with pytest.raises(ValueError, match="does not fit .* is missing; "):
        load_state(build(name, clip), {"adapter.weight": torch.zeros(1)}, None, [], "file")
