"""Items as tensors, loaders over them, and all that belongs to a dataset in one object."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torchvision import transforms as T
from yacs.config import CfgNode

from dassl.utils import ranks
from dassl.utils.image import read_image
from dassl.utils.tools import tolist_if_not

from .checks import SPLITS, check_images, warn_of_one_class
from .datasets import build_dataset
from .datasets.base_dataset import Datum
from .loader import LastingLoader
from .samplers import RankBatches, build_sampler
from .seeding import EpochSampler, SeededDataset
from .transforms import INTERPOLATION_MODES, build_transform, normalize_step
from .workers import worker_options

_MIB = 2**20


class DatasetWrapper(Dataset):
    """Turns each `Datum` into a dictionary of tensors.

    Item: `label`, `domain`, `impath`, `index`, and `img`; several transforms give `img`, `img2`,
    ...; RETURN_IMG0 adds `img0`, resized only. K_TRANSFORMS > 1 makes each a list of K tensors in
    training. Without a transform `img` is the PIL image.

    Args:
        cfg: the config.
        data_source: list of `Datum`.
        transform: callable on a PIL image, or a list of them, or None.
        is_train: apply K_TRANSFORMS; keep decoded images (DATALOADER.CACHE_MB).
    """

    def __init__(
        self,
        cfg: CfgNode,
        data_source: Sequence[Datum],
        transform: Callable | Sequence[Callable] | None = None,
        is_train: bool = False,
    ):
        self.cfg = cfg
        self.data_source = data_source
        self.transform = transform
        self.is_train = is_train
        self.k_tfm = cfg.DATALOADER.K_TRANSFORMS if is_train else 1
        self.return_img0 = cfg.DATALOADER.RETURN_IMG0
        if self.k_tfm > 1 and transform is None:
            raise ValueError(
                f"DATALOADER.K_TRANSFORMS is {self.k_tfm}, but INPUT.NO_TRANSFORM leaves no "
                "transform to apply; set one of them back."
            )
        self.to_tensor = _plain_transform(cfg)
        self._cache: dict[str, Any] = {}
        self._cache_bytes = cfg.DATALOADER.get("CACHE_MB", 0) * _MIB if is_train else 0

    def __len__(self) -> int:
        return len(self.data_source)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        item = self.data_source[idx]
        output = {
            "label": item.label,
            "domain": item.domain,
            "impath": item.impath,
            "index": idx,
        }
        img0 = self._image(item.impath)
        if self.transform is None:
            output["img"] = img0.copy()
        elif callable(self.transform):
            output["img"] = self._transform_image(self.transform, img0)
        else:
            for i, transform in enumerate(self.transform):
                output["img" if i == 0 else f"img{i + 1}"] = self._transform_image(transform, img0)
        if self.return_img0:
            output["img0"] = self.to_tensor(img0)
        return output

    def _transform_image(self, transform: Callable, img0: Any) -> Any:
        """Return one transformed image, or the list of K."""
        images = [transform(img0) for _ in range(self.k_tfm)]
        return images[0] if self.k_tfm == 1 else images

    def _image(self, path: str) -> Any:
        """Return the decoded image; kept while this process's share of the cache lasts."""
        if path in self._cache:
            return self._cache[path]
        image = read_image(path)
        if self._cache_bytes > 0:
            worker = get_worker_info()
            self._cache_bytes -= (
                3 * image.width * image.height * (worker.num_workers if worker else 1)
            )
            if self._cache_bytes > 0:
                self._cache[path] = image
        return image


def _plain_transform(cfg: CfgNode) -> Callable:
    """Return exact resize, tensor, and normalisation if it is listed."""
    steps = [
        T.Resize(tuple(cfg.INPUT.SIZE), interpolation=INTERPOLATION_MODES[cfg.INPUT.INTERPOLATION]),
        T.ToTensor(),
    ]
    if "normalize" in cfg.INPUT.TRANSFORMS:
        steps.append(normalize_step(cfg.INPUT)[1])
    return T.Compose(steps)


def build_data_loader(
    cfg: CfgNode,
    sampler_type: str = "SequentialSampler",
    data_source: Sequence[Datum] | None = None,
    batch_size: int = 64,
    n_domain: int = 0,
    n_ins: int = 2,
    tfm: Callable | Sequence[Callable] | None = None,
    is_train: bool = True,
    dataset_wrapper: Callable[..., Dataset] | None = None,
) -> DataLoader:
    """Return a loader over `data_source`.

    Training loaders drop the last partial batch, unless it is the only one. With
    `DATALOADER.SEEDING sample` workers stay alive between passes and augmentation follows
    (SEED, epoch, index); with `worker` the random streams are the original's.
    """
    if not data_source:
        raise ValueError(
            f"No images for a {'training' if is_train else 'test'} loader; the list is empty."
        )
    if batch_size < 1:
        raise ValueError(f"BATCH_SIZE is {batch_size}; it must be at least 1.")
    sampler = build_sampler(
        sampler_type,
        cfg=cfg,
        data_source=data_source,
        batch_size=batch_size,
        n_domain=n_domain,
        n_ins=n_ins,
    )
    dataset: Dataset = (dataset_wrapper or DatasetWrapper)(
        cfg, data_source, transform=tfm, is_train=is_train
    )
    options: dict[str, Any] = {}
    batches: dict[str, Any]
    loader_class = DataLoader
    seeding = cfg.DATALOADER.get("SEEDING", "worker")
    if seeding == "sample":
        seed = cfg.SEED if cfg.SEED >= 0 else torch.initial_seed()
        dataset = SeededDataset(dataset, seed)
        sampler = EpochSampler(sampler, advance=is_train)
        # The loader's own draws go to a private generator: EpochSampler makes them instead.
        options["generator"] = torch.Generator()
        options["persistent_workers"] = cfg.DATALOADER.NUM_WORKERS > 0
        loader_class = LastingLoader
    elif seeding != "worker":
        raise ValueError(f'DATALOADER.SEEDING is "{seeding}"; it is "sample" or "worker".')
    batches = {
        "batch_size": batch_size,
        "sampler": sampler,
        "drop_last": is_train and len(data_source) >= batch_size,
    }
    if ranks.size() > 1:
        batches = {"batch_sampler": RankBatches(**batches, is_train=is_train)}
    return loader_class(
        dataset,
        **batches,
        **worker_options(cfg.DATALOADER.NUM_WORKERS),
        pin_memory=torch.cuda.is_available() and cfg.USE_CUDA,
        **options,
    )


class DataManager:
    """The dataset that a config names, its transforms and loaders.

    Attributes: `dataset`, `train_loader_x`, `train_loader_u`, `val_loader`, `test_loader` (None
    where the dataset has no such list), `num_classes`, `num_source_domains`, `lab2cname`,
    `skipped_images` (items left out per split, see DATALOADER.SKIP_BAD_IMAGES).

    Args:
        cfg: the config.
        custom_tfm_train: replaces the training transform; a list gives `img`, `img2`, ...
        custom_tfm_test: replaces the test transform.
        dataset_wrapper: replaces `DatasetWrapper`; it then reads the files, so that they are not
            checked here.
    """

    def __init__(
        self,
        cfg: CfgNode,
        custom_tfm_train: Callable | Sequence[Callable] | None = None,
        custom_tfm_test: Callable | Sequence[Callable] | None = None,
        dataset_wrapper: Callable[..., Dataset] | None = None,
    ):
        self.cfg = cfg
        self.dataset = dataset = build_dataset(cfg)
        self.skipped_images: dict[str, int] = {}
        if dataset_wrapper is None:
            self.skipped_images = check_images(
                dataset, skip_bad=cfg.DATALOADER.get("SKIP_BAD_IMAGES", False)
            )
        warn_of_one_class(dataset)
        self._wrapper = dataset_wrapper
        self._tfm_train = self._choose_transform(custom_tfm_train, is_train=True)
        self._tfm_test = self._choose_transform(custom_tfm_test, is_train=False)

        self._num_classes = dataset.num_classes
        self._num_source_domains = len(cfg.DATASET.SOURCE_DOMAINS)
        self._lab2cname = dataset.lab2cname
        if cfg.VERBOSE:
            self.show_dataset_summary(cfg)

    @cached_property
    def train_loader_x(self) -> DataLoader | None:
        """Labelled training images; like all loaders, built when it is first asked for."""
        return self._loader(self.dataset.train_x, self.cfg.DATALOADER.TRAIN_X, is_train=True)

    @cached_property
    def train_loader_u(self) -> DataLoader | None:
        """Unlabelled training images."""
        node = self.cfg.DATALOADER
        options = node.TRAIN_X if node.TRAIN_U.SAME_AS_X else node.TRAIN_U
        return self._loader(self.dataset.train_u, options, is_train=True)

    @cached_property
    def val_loader(self) -> DataLoader | None:
        """Validation images."""
        return self._loader(self.dataset.val, self.cfg.DATALOADER.TEST, is_train=False)

    @cached_property
    def test_loader(self) -> DataLoader | None:
        """Test images."""
        return self._loader(self.dataset.test, self.cfg.DATALOADER.TEST, is_train=False)

    def _choose_transform(self, custom: Any, *, is_train: bool) -> Any:
        if custom is None:
            return build_transform(self.cfg, is_train=is_train)
        print(f"* Using custom transform for {'training' if is_train else 'testing'}")
        return custom

    def _loader(self, items: Any, options: CfgNode, *, is_train: bool) -> DataLoader | None:
        """Return a loader with these DATALOADER options; None without items (train_x: an error)."""
        if not items and items is not self.dataset.train_x:
            return None
        return build_data_loader(
            self.cfg,
            sampler_type=options.SAMPLER,
            data_source=items,
            batch_size=options.BATCH_SIZE,
            n_domain=options.get("N_DOMAIN", 0),
            n_ins=options.get("N_INS", 16),
            tfm=self._tfm_train if is_train else self._tfm_test,
            is_train=is_train,
            dataset_wrapper=self._wrapper,
        )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self._num_classes

    @property
    def num_source_domains(self) -> int:
        """Number of source domains named in the config."""
        return self._num_source_domains

    @property
    def lab2cname(self) -> dict[int, str]:
        """Label -> class name."""
        return self._lab2cname

    def show_dataset_summary(self, cfg: CfgNode) -> None:
        """Print name, domains, and the numbers of classes and images in two columns."""
        rows = [("Dataset", cfg.DATASET.NAME)]
        for title, domains in (
            ("Source", cfg.DATASET.SOURCE_DOMAINS),
            ("Target", cfg.DATASET.TARGET_DOMAINS),
        ):
            if domains:
                rows.append((title, ", ".join(tolist_if_not(list(domains)))))
        rows.append(("# classes", f"{self.num_classes:,}"))
        for split in (*SPLITS, *self.dataset.more_splits):
            items = getattr(self.dataset, split)
            if items:
                rows.append((f"# {split}", f"{len(items):,}"))
            if split in self.skipped_images:
                rows.append((f"# {split} left out", f"{self.skipped_images[split]:,}"))
        width = max(len(title) for title, _ in rows)
        value_width = max(len(value) for _, value in rows)
        rule = f"{'-' * width}  {'-' * value_width}"
        print("\n".join([rule, *(f"{title:<{width}}  {value}" for title, value in rows), rule]))
