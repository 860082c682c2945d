"""Registry, files, meters, logging, seeds, checkpoints."""

from .checkpoint import peek_checkpoint, read_tensors
from .files import atomic_write, cache_dir
from .image import BadImageError, read_image, upright
from .image_files import is_image
from .locks import only_writer
from .logger import Logger, setup_logger
from .meters import AverageMeter, MetricMeter
from .registry import Registry, check_availability
from .text import did_you_mean
from .tools import (
    check_isfile,
    collect_env_info,
    download_url,
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
)

__all__ = [
    "AverageMeter",
    "BadImageError",
    "Logger",
    "MetricMeter",
    "Registry",
    "atomic_write",
    "cache_dir",
    "check_availability",
    "check_isfile",
    "collect_env_info",
    "count_num_param",
    "did_you_mean",
    "download_url",
    "init_network_weights",
    "is_image",
    "listdir_nohidden",
    "load_checkpoint",
    "load_pretrained_weights",
    "mkdir_if_missing",
    "only_writer",
    "open_all_layers",
    "open_specified_layers",
    "peek_checkpoint",
    "read_image",
    "read_json",
    "read_tensors",
    "resume_from_checkpoint",
    "save_checkpoint",
    "set_random_seed",
    "setup_logger",
    "tolist_if_not",
    "upright",
    "weights_digest",
    "write_checkpoint",
    "write_json",
]
