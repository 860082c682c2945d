"""One owner of pixels: loaders, stored features and prediction see what the backbone needs."""

from functools import cache
from pathlib import Path

import open_clip
import pytest
import torch
from battery import made_config, made_image, made_trainer
from PIL import Image
from pretend_device import GPU, PretendedGPU
from tiny_open_clip import tiny_open_clip
from torchvision import transforms as T

from clip import load, load_backbone
from dassl.config import get_cfg_default
from dassl.config.files import CONFIGS, config_names, read_layers
from dassl.config.pixels import OPEN, close, in_words, leave_open, open_keys
from dassl.data.pixels import network_pixels, normalise, unit_pixels, unnormalise
from dassl.data.transforms import build_transform
from dassl.engine import build_trainer
from dassl.engine.command.cli import make_config, make_parser
from dassl.engine.records.report import images_in_words
from dassl.engine.state.checkpoints import find_checkpoint
from dassl.engine.state.resume import config_differences
from dassl.utils import load_checkpoint, set_random_seed
from trainers.common import clip_trainer, predictor
from trainers.common.predictor import normalise_pixels

CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
PREPARATION = {"mean": (0.5, 0.4, 0.3), "std": (0.5, 0.25, 0.2)}
PREPARATION |= {"interpolation": "bilinear", "resize_mode": "squash"}
IMAGE_TOWER = ("IVLP", "LASP", "MMA", "MaPLe", "PromptSRC", "RPO", "VPT")  # they train on pixels
STEP_BASED = ("ERM", "LP", "LPFT", "MIRO", "NaiveKD", "VL2VADiP", "VL2VSD")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder, and the name of a tiny backbone that no number of CLIP's fits."""
    folder = tmp_path_factory.mktemp("pixels")
    told = open_clip.get_model_preprocess_cfg
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            open_clip, "get_model_preprocess_cfg", lambda model: {**told(model), **PREPARATION}
        )
        for module in (clip_trainer, predictor):  # frozen: one copy serves all
            patch.setattr(module, "load_backbone", cache(load_backbone))
        yield folder, tiny_open_clip(folder, patch, quick_gelu=True, layers=12)[0]


def trainer_on(world, name, *opts):
    folder, backbone = world
    return made_trainer(name, folder, "MODEL.BACKBONE.NAME", backbone, *opts)


def saved_predictor(trainer):
    """What ``predict.py`` makes of the trainer's checkpoint."""
    trainer.save_model(-1, trainer.output_dir)
    path = find_checkpoint(trainer.output_dir)
    return type(trainer).load_predictor(load_checkpoint(str(path)), torch.device("cpu"))


def images_of(batch):
    """The images behind a test batch, decoded."""
    places = (map(int, Path(path).stem.split("_")) for path in batch["impath"])
    return [made_image("test", label, number) for label, number in places]


# --------------------------------------------------------------------- the backbone
def test_a_backbone_tells_how_its_images_are_prepared(world):
    clip = load_backbone(world[1])
    ours = load_backbone("toy/ViT")

    assert (clip.image_mean, clip.image_std) == (PREPARATION["mean"], PREPARATION["std"])
    assert (clip.image_interpolation, clip.image_resize) == ("bilinear", "squash")
    assert (ours.image_interpolation, ours.image_resize) == ("bicubic", "shortest")


def test_the_transform_of_clip_load_squashes_where_the_backbone_does(world):
    transform = load(world[1], device="cpu")[1]
    image = made_image("test", 0, 0)

    pixels = unnormalise(transform(image), PREPARATION["mean"], PREPARATION["std"])

    expected = T.functional.to_tensor(image.resize((32, 32), Image.Resampling.BILINEAR))
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-6)


def test_a_resizing_that_nothing_here_does_is_refused(world, monkeypatch):
    told = open_clip.get_model_preprocess_cfg
    monkeypatch.setattr(
        open_clip, "get_model_preprocess_cfg", lambda m: {**told(m), "resize_mode": "longest"}
    )

    with pytest.raises(ValueError, match='by the rule "longest".*one of: shortest, squash'):
        load_backbone(world[1])


# --------------------------------------------------------------------- loaders and prediction
@pytest.mark.parametrize("name", IMAGE_TOWER)
def test_training_evaluation_and_prediction_see_the_same_pixels(name, world):
    trainer = trainer_on(world, name)
    classifier = saved_predictor(trainer)
    batch = next(iter(trainer.test_loader))

    pixels = classifier.pixels(images_of(batch))

    assert torch.equal(batch["img"], normalise_pixels(trainer.clip, pixels))
    trainer.set_model_mode("eval")
    with torch.no_grad():
        expected = trainer.model_inference(batch["img"]).softmax(dim=-1)
    torch.testing.assert_close(classifier(pixels), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["TaskRes", "ZeroshotCLIP"])
def test_stored_features_and_prediction_see_the_same_pixels(name, world):
    trainer = trainer_on(world, name)
    classifier = saved_predictor(trainer)
    batch = next(iter(trainer.test_loader))

    features = trainer.clip.encode_image(
        normalise_pixels(trainer.clip, classifier.pixels(images_of(batch)))
    )

    torch.testing.assert_close(batch["features"], features, rtol=1e-4, atol=1e-5)


def test_training_views_are_normalised_with_the_backbone_s_statistics(world):
    trainer = trainer_on(world, "MMA", "INPUT.TRANSFORMS", "['normalize']")

    batch = next(iter(trainer.train_loader_x))
    pixels = unnormalise(batch["img"], PREPARATION["mean"], PREPARATION["std"])

    levels = pixels * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)


def test_transforms_that_do_not_normalise_are_refused_where_the_tower_reads_pixels(world):
    with pytest.raises(ValueError, match="MMA needs normalised pixels. Add it: --transforms"):
        trainer_on(world, "MMA", "INPUT.TRANSFORMS", "['random_flip']")


# --------------------------------------------------------------------- what is given
@pytest.mark.parametrize(
    ("key", "value", "own"),
    [
        ("PIXEL_MEAN", "[0.485, 0.456, 0.406]", r"\[0\.5, 0\.4, 0\.3\]"),
        ("PIXEL_STD", "[0.229, 0.224, 0.225]", r"\[0\.5, 0\.25, 0\.2\]"),
        ("INTERPOLATION", "bicubic", "'bilinear'"),
        ("RESIZE", "shortest", "'squash'"),
        ("SIZE", "(224, 224)", r"\[32, 32\]"),
    ],
)
@pytest.mark.parametrize("name", ["MMA", "TaskRes"])
def test_another_value_than_the_backbone_s_is_refused(name, key, value, own, world):
    text = rf"INPUT\.{key} is .* needs {own}\. Leave INPUT\.{key} out: it follows the backbone\."

    with pytest.raises(ValueError, match=text):
        trainer_on(world, name, f"INPUT.{key}", value)


def test_the_backbone_s_own_values_are_accepted_rounded_ones_too(tmp_path):
    words = ["INPUT.PIXEL_MEAN", "[0.481455, 0.457828, 0.408211]", "INPUT.PIXEL_STD", str(CLIP_STD)]
    words += ["INPUT.INTERPOLATION", "bicubic", "INPUT.SIZE", "(32, 32)"]

    trainer = made_trainer("MMA", tmp_path, *words)

    assert trainer.cfg.INPUT.PIXEL_MEAN == CLIP_MEAN


@pytest.mark.parametrize("trainer", ["CoOp", "MMA", "ZeroshotCLIP"])
def test_a_trainer_with_a_clip_leaves_its_pixels_to_it(trainer):
    words = ["--trainer", trainer, "--dataset", "toy_objects"]

    assert open_keys(make_config(make_parser().parse_args(words))) == list(OPEN)


@pytest.mark.parametrize("trainer", STEP_BASED)
def test_step_based_trainers_keep_the_statistics_of_their_protocol(trainer):
    words = ["--trainer", trainer, "--dataset", "pacs", "--no-recipe"]

    cfg = make_config(make_parser().parse_args(words))

    assert open_keys(cfg) == ["SIZE"]
    assert cfg.INPUT.PIXEL_MEAN == [0.485, 0.456, 0.406]
    assert cfg.INPUT.PIXEL_STD == [0.229, 0.224, 0.225]
    assert (cfg.INPUT.INTERPOLATION, cfg.INPUT.RESIZE) == ("bilinear", "squash")


def test_no_config_states_pixels_but_those_of_the_toy_domains():
    folders = [CONFIGS / "base", CONFIGS / "datasets", *CONFIGS.glob("trainers/*")]
    stating = {key: set() for key in OPEN}

    for path in (folder / f"{name}.yaml" for folder in folders for name in config_names(folder)):
        own = read_layers(path)[-1].content
        for key in set(own.get("INPUT", ())) & set(OPEN):
            stating[key].add(path.relative_to(CONFIGS).as_posix())

    students = {"base/toy_student.yaml"}
    assert stating == {
        "SIZE": set(),
        "PIXEL_MEAN": students,
        "PIXEL_STD": students,
        "INTERPOLATION": {"datasets/toy_domains.yaml"},
        "RESIZE": set(),
    }


# --------------------------------------------------------------------- files of the first build
def first_build(cfg):
    """The config.yaml that the first build wrote for a run like this: it stated CLIP's numbers."""
    old = cfg.clone()
    old.defrost()
    close(old, {"SIZE": (32, 32), "PIXEL_MEAN": CLIP_MEAN, "PIXEL_STD": CLIP_STD})
    close(old, {"INTERPOLATION": "bicubic", "RESIZE": "shortest"})
    del old.INPUT["RESIZE"]
    return old


def test_a_run_folder_of_the_first_build_is_this_run(tmp_path):
    cfg = made_config("MMA", tmp_path)
    zero_shot = made_config("ZeroshotCLIP", tmp_path)
    older = first_build(zero_shot)
    del older.INPUT["TEACHER_NORM"]

    assert config_differences(cfg, first_build(cfg)) == {}
    assert config_differences(zero_shot, older) == {}
    trained = build_trainer(cfg)
    assert config_differences(trained.cfg, first_build(cfg)) == {}


def test_a_config_of_the_first_build_is_read_as_a_recipe(tmp_path):
    words = ["--trainer", "MMA", "--dataset", "toy_objects"]
    old = first_build(make_config(make_parser().parse_args(words)))
    (tmp_path / "config.yaml").write_text(old.dump())

    cfg = make_config(
        make_parser().parse_args([*words, "--config-file", str(tmp_path / "config.yaml")])
    )

    assert cfg.INPUT.PIXEL_MEAN == CLIP_MEAN and open_keys(cfg) == ["RESIZE"]


def test_a_new_key_is_no_difference_unless_it_is_set(tmp_path):
    cfg = made_config("MMA", tmp_path)
    older = first_build(cfg)
    changed = cfg.clone()
    changed.defrost()
    changed.INPUT.RESIZE = "squash"

    assert config_differences(changed, older) == {"INPUT.RESIZE": ("squash", "shortest")}


# --------------------------------------------------------------------- what a log says
def test_the_start_of_a_log_says_how_images_are_prepared(world, caplog):
    trainer = trainer_on(world, "MMA")

    words = images_in_words(trainer.cfg.INPUT)

    assert words == ("32 x 32 pixels, bilinear, squash; mean [0.5, 0.4, 0.3], std [0.5, 0.25, 0.2]")


def test_the_log_prints_the_normalisation_that_is_applied(world, capsys):
    trainer_on(world, "MMA")

    printed = capsys.readouterr().out

    assert printed.count("+ normalization (mean=[0.5, 0.4, 0.3], std=[0.5, 0.25, 0.2])") == 2
    assert "+ resize the whole image to 32x32" in printed


def test_a_config_that_is_printed_before_the_backbone_is_there_says_so():
    cfg = make_config(make_parser().parse_args(["--trainer", "MMA", "--dataset", "toy_objects"]))

    printed = str(in_words(cfg))

    assert "PIXEL_MEAN: as the network needs" in printed and "SIZE: as the network needs" in printed
    assert open_keys(cfg) == list(OPEN)


# --------------------------------------------------------------------- the arithmetic
def test_normalising_is_undone_and_leaves_its_input_alone():
    pixels = unit_pixels(torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2))
    before = pixels.clone()

    images = normalise(pixels, CLIP_MEAN, torch.tensor(CLIP_STD))

    assert torch.equal(pixels, before)
    torch.testing.assert_close(unnormalise(images, CLIP_MEAN, CLIP_STD), pixels)
    expected = (pixels[1, 2] - CLIP_MEAN[2]) / CLIP_STD[2]
    torch.testing.assert_close(images[1, 2], expected)


def test_keys_are_left_open_and_closed_once():
    cfg = get_cfg_default()
    leave_open(cfg)
    cfg.INPUT.INTERPOLATION = "nearest"

    close(cfg, {"INTERPOLATION": "bicubic", "SIZE": (7, 7)})

    assert (cfg.INPUT.INTERPOLATION, cfg.INPUT.SIZE) == ("nearest", (7, 7))
    assert open_keys(cfg) == ["PIXEL_MEAN", "PIXEL_STD", "RESIZE"]


# --------------------------------------------------------------------- normalised on the device
def first_batch(trainer, loader):
    """In an order that depends on nothing that was drawn before."""
    set_random_seed(1)
    return next(iter(getattr(trainer, loader)))


@pytest.mark.parametrize("name", ["MMA", "VPT"])
def test_bytes_become_the_pixels_that_loaders_make_once_they_are_on_the_device(world, name):
    for_loaders = trainer_on(world, name)
    for_device = trainer_on(world, name, "INPUT.NORMALIZE_ON_DEVICE", "True")

    for loader in ("train_loader_x", "test_loader"):
        expected, batch = (first_batch(t, loader) for t in (for_loaders, for_device))
        images, labels = for_device.parse_batch_test(batch)
        assert batch["img"].dtype == torch.uint8
        assert batch["img"].nbytes * 4 == expected["img"].nbytes
        assert images.equal(expected["img"])
        assert labels.equal(expected["label"])


def test_bytes_are_normalised_where_they_have_arrived():
    node = get_cfg_default().INPUT
    node.NORMALIZE_ON_DEVICE = True
    with PretendedGPU():
        images = network_pixels(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), node, GPU)

        assert (images.device, images.dtype) == (GPU, torch.float32)


def test_bytes_of_a_transform_of_somebody_else_stay_bytes():
    mask = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)

    assert network_pixels(mask, get_cfg_default().INPUT, "cpu") is mask


@pytest.mark.parametrize(
    ("transforms", "named"),
    [
        ([], "nothing"),
        (["cutout", "normalize"], "cutout .*, normalization"),
        (["normalize", "instance_norm"], "normalization .*, instance normalization"),
    ],
)
def test_bytes_are_refused_where_more_than_the_normalisation_works_on_tensors(transforms, named):
    cfg = get_cfg_default()
    cfg.INPUT.TRANSFORMS, cfg.INPUT.NORMALIZE_ON_DEVICE = transforms, True

    with pytest.raises(ValueError, match=f"NORMALIZE_ON_DEVICE is True, .* gives: {named}"):
        build_transform(cfg)
