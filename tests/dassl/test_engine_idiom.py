"""Trainer and dataset files written for the original packages run as they are."""

import numpy as np
import pytest
import torch
from PIL import Image
from yacs.config import CfgNode as CN

from dassl.config import get_cfg_default
from dassl.engine import build_trainer
from dassl.utils import load_checkpoint, set_random_seed

BACKBONE = "idiom/tiny"
NAMES = ("circle", "green_square", "star", "wedge")


@pytest.fixture(scope="module", autouse=True)
def idiom_world(tmp_path_factory):
    """Images of four classes, and a tiny backbone in the table of names; yields the data root."""
    from idiom import prompt_trainer, shapes_dataset  # registers both

    from clip import clip
    from golden_checks.tiny_clip import torch_state_dict

    assert prompt_trainer and shapes_dataset
    root = tmp_path_factory.mktemp("idiom")
    rng = np.random.RandomState(0)
    for split, count in (("train", 5), ("test", 2)):
        for label, name in enumerate(NAMES):
            folder = root / "idiom_shapes" / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.randint(0, 256, size=(40, 36, 3), dtype=np.uint8)
                pixels[: 8 * (label + 1)] = 60 * label
                Image.fromarray(pixels).save(folder / f"{i}.png")
    torch.save(torch_state_dict("tiny_vit"), root / "tiny.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(clip._MODELS, BACKBONE, str(root / "tiny.pt"))
        yield root


def extended_cfg(root, output, *pairs):
    """As the official entry scripts build it."""
    cfg = get_cfg_default()
    cfg.TRAINER.IDIOM = CN()
    cfg.TRAINER.IDIOM.N_CTX = 4
    cfg.TRAINER.IDIOM.PREC = "fp32"
    cfg.DATASET.SUBSAMPLE_CLASSES = "all"
    cfg.DATASET.ROOT, cfg.DATASET.NAME = str(root), "IdiomShapes"
    cfg.OUTPUT_DIR, cfg.TRAINER.NAME, cfg.SEED = str(output), "IdiomPrompt", 1
    cfg.MODEL.BACKBONE.NAME = BACKBONE
    cfg.DATASET.NUM_SHOTS = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 4
    cfg.INPUT.SIZE = (32, 32)
    cfg.INPUT.INTERPOLATION = "bicubic"
    cfg.INPUT.TRANSFORMS = ("random_resized_crop", "random_flip", "normalize")
    cfg.OPTIM.NAME, cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH = "sgd", 0.002, 2
    cfg.OPTIM.LR_SCHEDULER, cfg.OPTIM.WARMUP_EPOCH = "cosine", 1
    cfg.OPTIM.WARMUP_TYPE, cfg.OPTIM.WARMUP_CONS_LR = "constant", 1e-5
    cfg.TRAIN.PRINT_FREQ = 1
    cfg.merge_from_list(list(pairs))
    cfg.freeze()
    return cfg


def build(root, output, *pairs):
    set_random_seed(1)
    return build_trainer(extended_cfg(root, output, *pairs))


def test_the_files_train_test_and_leave_the_official_checkpoint(idiom_world, tmp_path, capsys):
    trainer = build(idiom_world, tmp_path)
    before = trainer.model.prompt_learner.ctx.detach().clone()

    trainer.train()

    out = capsys.readouterr().out
    content = load_checkpoint(str(tmp_path / "prompt_learner" / "model.pth.tar-2"))
    assert set(content["state_dict"]) == {"ctx", "token_prefix", "token_suffix"}
    assert not torch.equal(before, content["state_dict"]["ctx"])
    assert "epoch [2/2] batch [2/2]" in out and "Finish training" in out and "* total: 8" in out


@pytest.mark.filterwarnings("ignore:.*torch.cuda.amp.*", "ignore:.*CUDA is not available.*")
def test_the_files_train_with_a_gradient_scaler(idiom_world, tmp_path):
    trainer = build(idiom_world, tmp_path, "TRAINER.IDIOM.PREC", "amp", "OPTIM.MAX_EPOCH", 1)

    trainer.train()

    assert trainer.results["test"]["accuracy"] >= 0


def test_a_prompt_trained_on_base_classes_serves_the_new_ones(idiom_world, tmp_path, capsys):
    base = build(idiom_world, tmp_path / "base", "DATASET.SUBSAMPLE_CLASSES", "base")
    base.train()
    new = build(idiom_world, tmp_path / "new", "DATASET.SUBSAMPLE_CLASSES", "new")

    new.load_model(str(tmp_path / "base"), epoch=2)
    accuracy = new.test()

    assert new.dm.dataset.classnames == ["star", "wedge"]
    assert torch.equal(new.model.prompt_learner.ctx, base.model.prompt_learner.ctx)
    assert 0 <= accuracy <= 100
    assert "Loading weights to prompt_learner" in capsys.readouterr().out


def test_best_val_reloads_the_best_epoch_through_the_trainer_s_own_load_model(
    idiom_world, tmp_path, capsys
):
    build(idiom_world, tmp_path, "TEST.FINAL_MODEL", "best_val").train()

    out = capsys.readouterr().out
    assert "Deploy the model with the best val performance" in out
    assert "model-best.pth.tar" in out


def test_the_few_shot_draw_is_read_back_from_the_pickle(idiom_world, tmp_path, capsys):
    first = build(idiom_world, tmp_path).dm.dataset.train_x

    second = build(idiom_world, tmp_path).dm.dataset.train_x

    assert "Loading preprocessed few-shot data" in capsys.readouterr().out
    assert [item.impath for item in first] == [item.impath for item in second]
    assert len(first) == 8


def test_the_prompt_at_its_start_gives_the_logits_of_the_package_s_own_text_tower(
    idiom_world, tmp_path
):
    from clip import clip

    trainer = build(idiom_world, tmp_path)
    learner = trainer.model.prompt_learner
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    with torch.no_grad():
        logits = trainer.model_inference(images)
        model = clip.load_backbone(BACKBONE)
        text = model.encode_text(learner.tokenized_prompts, embeddings=learner())
        image = model.encode_image(images)
        image, text = (x / x.norm(dim=-1, keepdim=True) for x in (image, text))
        expected = model.logit_scale.exp() * image @ text.t()

    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
