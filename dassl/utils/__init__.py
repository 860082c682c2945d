"""Registry, files, meters, logging, seeds, checkpoints.

registry.py, plugins.py                      names -> classes; files that fill a registry
files.py, text_files.py, places.py, locks.py    writing, reading and locking files; refused paths
checkpoint.py, integrity.py, torchtools.py   checkpoint files; helpers on networks
image.py, image_files.py, file_index.py      reading images; which files are images, and known ones
downloads.py, digests.py, archives.py        fetching, what came first, unpacking
interrupts.py, ranks.py, heartbeat.py        signals; one run in several processes
logger.py, meters.py, text.py, tools.py      log.txt, averages, near misses, seeds

A name is loaded from its file when it is first asked for: what needs text or files alone (flags,
configs, tables) does not wait for torch.
"""

# ruff: noqa: F401  (the imports tell type checkers what __getattr__ finds)
from typing import TYPE_CHECKING

from dassl.lazy import lazily

if TYPE_CHECKING:
    from .checkpoint import peek_checkpoint, read_tensors
    from .downloads import download_url
    from .files import atomic_write, cache_dir, write_text
    from .image import BadImageError, read_image, upright
    from .image_files import is_image
    from .locks import only_writer
    from .logger import Logger, log_alone, setup_logger
    from .meters import AverageMeter, MetricMeter
    from .registry import Registry, check_availability
    from .text import did_you_mean
    from .tools import (
        check_isfile,
        collect_env_info,
        listdir_nohidden,
        mkdir_if_missing,
        read_json,
        set_random_seed,
        tolist_if_not,
        write_json,
    )
    from .torchtools import (
        count_num_param,
        init_network_weights,
        load_checkpoint,
        load_pretrained_weights,
        open_all_layers,
        open_specified_layers,
        resume_from_checkpoint,
        save_checkpoint,
        weights_digest,
        write_checkpoint,
        write_tensors,
    )

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "checkpoint": ("peek_checkpoint", "read_tensors"),
        "downloads": ("download_url",),
        "files": ("atomic_write", "cache_dir", "write_text"),
        "image": ("BadImageError", "read_image", "upright"),
        "image_files": ("is_image",),
        "locks": ("only_writer",),
        "logger": ("Logger", "log_alone", "setup_logger"),
        "meters": ("AverageMeter", "MetricMeter"),
        "registry": ("Registry", "check_availability"),
        "text": ("did_you_mean",),
        "tools": (
            "check_isfile",
            "collect_env_info",
            "listdir_nohidden",
            "mkdir_if_missing",
            "read_json",
            "set_random_seed",
            "tolist_if_not",
            "write_json",
        ),
        "torchtools": (
            "count_num_param",
            "init_network_weights",
            "load_checkpoint",
            "load_pretrained_weights",
            "open_all_layers",
            "open_specified_layers",
            "resume_from_checkpoint",
            "save_checkpoint",
            "weights_digest",
            "write_checkpoint",
            "write_tensors",
        ),
    },
)
