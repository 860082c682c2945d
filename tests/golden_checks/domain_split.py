"""DomainBed's folder order, in / out splits and evaluation transform."""

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dassl.config import get_cfg_default
from dassl.data.datasets import Datum
from dassl.engine.steps.domains import ResizedImages
from dassl.engine.steps.evaluation import StepEvaluation
from dassl.features.views import WholeImage
from datasets.domain_split import domain_seed, split_domain
from datasets.domainbed import DomainFolder
from datasets.files import is_image
from golden_checks.common import Case


def check(case: Case) -> None:
    config = case.config
    if "tree" in config:
        check_tree(case)
    if "env_sizes" in config:
        check_indices(case)
    if "resize" in config:
        check_transform(case)
    if not {"tree", "env_sizes", "resize"} & set(config):
        raise ValueError(f"{case.path}: nothing here that this checker knows.")


def check_indices(case: Case) -> None:
    config = case.config
    for trial in config["trial_seeds"]:
        for env, n in enumerate(config["env_sizes"]):
            start = f"trial{trial}.env{env}."
            out, kept = split_domain(
                n, domain=env, trial_seed=trial, holdout=config["holdout_fraction"]
            )
            digest = hashlib.sha256(np.concatenate([out, kept]).astype("<i8").tobytes()).digest()
            found = {
                "seed": domain_seed(trial, env),
                "out": out,
                "in": kept,
                "out_head": out[:32],
                "in_head": kept[:32],
                "out_tail": out[-8:],
                "in_tail": kept[-8:],
                "out_len": len(out),
                "in_len": len(kept),
                "sha256": np.frombuffer(digest, dtype=np.uint8),
            }
            names = [name for name in case.arrays if name.startswith(start)]
            if not names:
                raise AssertionError(f"{case.path}: no expected array begins with {start}")
            for name in names:
                case.compare(name, np.asarray(found[name.removeprefix(start)]))


def check_tree(case: Case) -> None:
    config = case.config
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in config["tree"]:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if is_image(path.name):
                Image.new("RGB", (4, 4)).save(path)
            else:
                path.write_text("no image")
        cfg = get_cfg_default()
        cfg.DATASET.ROOT = str(root)
        cfg.DATASET.TARGET_DOMAINS = (config["environments"][-1],)
        cfg.DATASET.TRIAL_SEED = config["trial_seed"]
        cfg.DATASET.HOLDOUT = config["holdout_fraction"]
        dataset = DomainFolder(cfg)

        assert list(dataset.all_domains) == config["environments"]
        assert dataset.classnames == config["class_names"]
        domains = dataset.all_domains.values()
        case.compare("n_files", [len(d.in_items) + len(d.out_items) for d in domains])
        for env, domain in enumerate(dataset.all_domains.values()):
            files, labels = config["files"][env], config["labels"][env]
            out = config["out_indices"][env]
            assert [_relative(i.impath, root) for i in domain.out_items] == [files[k] for k in out]
            found = {_relative(i.impath, root): i.label for i in domain.in_items + domain.out_items}
            assert found == dict(zip(files, labels))
            # the shuffle is undone by the split function: this checks the order of the files
            _, kept = split_domain(
                len(files),
                domain=env,
                trial_seed=config["trial_seed"],
                holdout=config["holdout_fraction"],
            )
            assert [_relative(i.impath, root) for i in domain.in_items] == [files[k] for k in kept]


def check_transform(case: Case) -> None:
    """Image files as an evaluation reads them; prediction sees the same pixels."""
    config = case.config
    images = [Image.fromarray(case.arrays[f"image{k}"]) for k in range(config["n_images"])]
    size, interpolation = tuple(config["resize"]), config["interpolation"].split()[0]
    with tempfile.TemporaryDirectory() as folder:
        items = [Datum(str(Path(folder, f"{k}.png")), label=0) for k in range(len(images))]
        for image, item in zip(images, items):
            image.save(item.impath)
        part = ResizedImages(items, size=size, interpolation=interpolation)
        pixels = torch.cat(list(part.batches(2)))
        evaluation = StepEvaluation(
            {"test_in": part}, mean=config["mean"], std=config["std"], batch_size=2, device="cpu"
        )
        views = torch.cat(list(evaluation.images("test_in")))
    for k, view in enumerate(views):
        case.compare_pixels(f"sample{k}", view[:, ::16, ::16])
        case.compare(f"mean{k}", view.mean(dim=(1, 2)))
        case.compare(f"std{k}", view.std(dim=(1, 2)))
        if size[0] == size[1]:
            assert torch.equal(WholeImage(size[0], interpolation).build()(images[k]), pixels[k])


def _relative(path: str, root: Path) -> str:
    return Path(path).relative_to(root).as_posix()
