"""AMU-Tuning: auxiliary encoders by name, initial weight, evaluation, ablations, files."""

from types import SimpleNamespace

import pytest
import timm
import torch
import torch.nn.functional as F
from few_shot_world import make_trainer, make_world

import trainers  # noqa: F401  (registers the trainers)
from dassl.config import get_cfg_default
from dassl.modeling.networks import ImageNetwork, feature_width
from dassl.utils import load_checkpoint
from golden_checks import aux_resnet50
from trainers.amu import AMU, AMUSettings, AuxiliaryBias, auxiliary, initial_weight
from trainers.amu.auxiliary import AuxiliaryEncoder, load_auxiliary, resnet50_from_moco
from trainers.amu.uncertainty import UNCERTAINTY_TYPES, uncertainty_factor
from trainers.common.text.templates import notebook_templates


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Images and backbone; the auxiliary is the tiny backbone's own tower."""
    return make_world(tmp_path_factory.mktemp("amu"))


def start(world, output, *pairs):
    aux = ("TRAINER.AMU.AUX", f"clip:{world / 'tiny.pt'}")
    return make_trainer(world, "AMU", output, *aux, *pairs)


def bias(kind="moment", **more):
    torch.manual_seed(0)
    classifier = F.normalize(torch.randn(7, 6), dim=-1)
    return AuxiliaryBias(classifier, 9, AMUSettings(uncent_type=kind, **more))


def test_the_initial_weight_divides_by_the_average_number_of_shots():
    features = F.normalize(torch.randn(6, 4), dim=-1)
    labels = torch.tensor([0, 0, 0, 1, 1, 2])

    weight = initial_weight(features, labels, 3)

    torch.testing.assert_close(weight[0], features[:3].sum(0) / 2)
    torch.testing.assert_close(weight[2], features[5] / 2)


def test_clip_s_cosines_are_scaled_as_asked_or_by_the_backbone():
    features, clip = F.normalize(torch.randn(4, 6), dim=-1), SimpleNamespace()
    clip.logit_scale = torch.tensor(20.0).log()

    def logits(scale):
        method = bias(clip_scale=scale)
        return method.clip_logits(clip, features, method.clip_classifier)

    torch.testing.assert_close(logits(50.0), 0.5 * logits(100.0))
    torch.testing.assert_close(logits(0.0), 0.2 * logits(100.0))


def test_a_single_class_is_refused():
    with pytest.raises(ValueError, match="at least 2 classes; there is 1"):
        AuxiliaryBias(torch.ones(1, 6), 9, AMUSettings())


@pytest.mark.parametrize("kind", UNCERTAINTY_TYPES)
def test_kept_constants_predict_what_the_whole_forward_predicts(kind):
    method, raw = bias(kind), torch.randn(20, 15)

    scores, preferred = method.fuse(method.constants(None, raw))

    features = method.image_features(raw)
    logits = method.logits(None, features, method.text_features(None))
    _, _, aux = method.branches(None, features, method.clip_classifier)
    assert torch.equal(scores.argmax(1), logits.argmax(1))
    assert torch.equal(preferred, aux.argmax(1))
    differences = (scores - logits) - (scores - logits).mean(1, keepdim=True)
    torch.testing.assert_close(differences, torch.zeros_like(scores), atol=1e-3, rtol=0)


def test_the_entropy_of_an_underflowing_prediction_is_its_limit():
    logits = torch.tensor([[200.0, 0.0, 0.0, 0.0], [200.0, 200.0, 0.0, 0.0]])

    factor = uncertainty_factor(logits, "entropy", 0.4)

    expected = torch.tensor([[0.0], [0.5]]).mul(0.4).exp()
    torch.testing.assert_close(factor, expected, rtol=1e-6, atol=0)


def test_an_unknown_uncertainty_names_those_that_exist():
    with pytest.raises(ValueError, match="UNCENT_TYPE is 'kurtosis'; expected .*moment"):
        AMUSettings(uncent_type="kurtosis")


def test_top5_with_four_classes_is_refused():
    with pytest.raises(ValueError, match="at least 5 classes"):
        uncertainty_factor(torch.randn(2, 4), "top5", 0.4)


def test_lambda_one_trains_on_the_fused_loss_alone():
    losses = bias(lambda_merge=1.0).losses(None, torch.randn(8, 15), torch.arange(8) % 7)

    torch.testing.assert_close(losses["loss"], losses["loss_merge"])


@pytest.mark.parametrize("name", ["ImageNetV2", "ImageNetSketch", "ImageNetA", "ImageNetR"])
def test_shifted_imagenet_sets_keep_the_text_classifier_of_the_training(name):
    trained, shifted = get_cfg_default(), get_cfg_default()
    trained.DATASET.NAME, shifted.DATASET.NAME = "ImageNet", name

    assert len(notebook_templates(trained)) == 7
    assert notebook_templates(shifted) == notebook_templates(trained)


def test_a_run_logs_both_losses_and_leaves_a_classifier_for_predict(world, tmp_path):
    trainer = start(world, tmp_path)
    trainer.train()

    lines = (tmp_path / "metrics.jsonl").read_text()
    checkpoint = load_checkpoint(str(tmp_path / "amu" / "model.pth.tar-2"))
    assert all(name in lines for name in ("loss_merge", "loss_aux", "factor", "accuracy_aux"))
    assert set(checkpoint["state_dict"]) == {"fc.weight"}
    predictor = AMU.load_predictor(checkpoint, torch.device("cpu"))
    pixels = torch.rand(3, 3, 32, 32)
    raw = AMU.encode_pixels(trainer.cfg, trainer.clip, trainer.method, pixels)
    features = trainer.method.image_features(raw)
    expected = trainer.method.logits(trainer.clip, features, trainer.method.clip_classifier)
    torch.testing.assert_close(predictor(pixels), expected.softmax(-1))


def test_training_starts_at_the_class_means_of_the_shots_and_random_does_not(world, tmp_path):
    by_shots = start(world, tmp_path / "a", "OPTIM.LR", 0.0, "OPTIM.WEIGHT_DECAY", 0.0)
    by_shots.train()
    random = start(world, tmp_path / "b", "TRAINER.AMU.AUX_INIT", "random", "OPTIM.LR", 0.0)
    random.train()

    torch.testing.assert_close(by_shots.method.fc.weight.detach(), by_shots.shot_weight())
    assert (random.method.fc.weight - by_shots.method.fc.weight).abs().max() > 1e-3


def test_a_checkpoint_of_another_auxiliary_is_refused(world, tmp_path):
    start(world, tmp_path / "a").train()
    other = start(world, tmp_path / "b")
    other.bank.parts[1].encoder._digest = "0" * 64

    with pytest.raises(ValueError, match="auxiliary encoder"):
        other.load_model(str(tmp_path / "a"))
    load_auxiliary.cache_clear()


@pytest.mark.parametrize("wrapped", [True, False])
def test_the_official_adapter_loads_by_its_key(world, tmp_path, wrapped):
    trainer = start(world, tmp_path)
    state = {"fc.weight": torch.randn_like(trainer.method.fc.weight)}
    (tmp_path / "official" / "amu").mkdir(parents=True)
    file = tmp_path / "official" / "amu" / "model.pth.tar-50"
    torch.save({"state_dict": state} if wrapped else state, file)

    trainer.load_model(str(tmp_path / "official"), epoch=50)

    torch.testing.assert_close(trainer.method.fc.weight.detach(), state["fc.weight"])


def test_only_projector_and_other_encoders_are_dropped_from_a_moco_file():
    checkpoint = aux_resnet50.moco_checkpoint(0)

    network = resnet50_from_moco(checkpoint)

    assert isinstance(network.fc, torch.nn.Identity)
    expected = checkpoint["state_dict"]["module.base_encoder.layer4.2.conv3.weight"]
    torch.testing.assert_close(network.layer4[2].conv3.weight.detach(), expected)


def test_a_moco_file_that_lacks_tensors_says_which():
    checkpoint = aux_resnet50.moco_checkpoint(0)
    del checkpoint["state_dict"]["module.base_encoder.conv1.weight"]

    with pytest.raises(ValueError, match="1 are missing .conv1.weight"):
        resnet50_from_moco(checkpoint)


def test_missing_moco_weights_are_explained(monkeypatch):
    def offline(url, path):
        raise OSError("no network")

    monkeypatch.setattr(auxiliary, "download_url", offline)

    with pytest.raises(FileNotFoundError, match="r-50-1000ep.pth.tar.*AUX_WEIGHTS"):
        load_auxiliary("moco_v3_rn50")


def test_another_moco_file_than_the_first_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("VLTUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(auxiliary, "download_url", lambda url, path: path.write_bytes(b"first"))

    path = auxiliary.moco_weights("100")
    assert auxiliary.moco_weights("100") == path
    path.write_bytes(b"other")

    with pytest.raises(OSError, match=r"when it first came from https://dl\..*Delete the file"):
        auxiliary.moco_weights("100")


def test_an_unknown_auxiliary_lists_the_known_ones():
    with pytest.raises(ValueError, match="TRAINER.AMU.AUX.*moco_v3_rn50"):
        load_auxiliary("moco_rn50")


def test_a_file_of_another_network_is_named_as_such(tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")

    with pytest.raises(ValueError, match="other.pt holds no weights of timm:resnet18"):
        load_auxiliary("timm:resnet18", str(tmp_path / "other.pt"))


@pytest.mark.parametrize("with_head", [True, False])
def test_a_timm_file_may_hold_a_head(tmp_path, with_head):
    network = timm.create_model("test_resnet", **({} if with_head else {"num_classes": 0}))
    torch.save(network.state_dict(), tmp_path / "timm.pt")
    network.reset_classifier(0)

    encoder = load_auxiliary("timm:test_resnet", str(tmp_path / "timm.pt"))

    pixels = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(each)[:, None, None] for each in (encoder.mean, encoder.std))
    with torch.no_grad():
        expected = network.eval()((pixels - mean) / std)
    torch.testing.assert_close(encoder(pixels), expected)


def test_a_network_that_takes_no_small_images_can_be_an_auxiliary():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 5, 100), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )

    encoder = AuxiliaryEncoder(ImageNetwork(network, feature_width(network), name="x:large"))

    assert encoder.dim == 5


def test_joined_auxiliaries_give_unit_features_side_by_side(world):
    pixels = torch.rand(2, 3, 32, 32)
    tower = load_auxiliary(f"clip:{world / 'tiny.pt'}")

    joined = load_auxiliary(f"clip:{world / 'tiny.pt'}+clip:{world / 'tiny.pt'}")

    own = F.normalize(tower(pixels), dim=-1)
    torch.testing.assert_close(joined(pixels), torch.cat([own, own], dim=1))


def test_an_auxiliary_of_fixed_size_resizes_what_it_gets(world):
    encoder = load_auxiliary(f"clip:{world / 'tiny.pt'}")

    features = encoder(torch.rand(2, 3, 48, 48))

    assert features.shape == (2, encoder.dim)
