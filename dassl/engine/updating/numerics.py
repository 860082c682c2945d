"""What a GPU computes in, and whether two runs give the same bits there: TRAIN.PRECISION and
TRAIN.DETERMINISTIC.

A CPU computes in float32 and repeats its bits; nothing here touches it.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from yacs.config import CfgNode

from dassl.config import Condition
from dassl.config.ranges import PRECISIONS

EVERYWHERE = ("fp32", "tf32")  # need nothing of a trainer
OWN = "own"  # whatever the code of a trainer of somebody else's does
TF32 = {"fp32": False, "tf32": True}  # of other precisions torch's defaults
WORKSPACE, WORKSPACE_SIZE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"


def uses_cuda(cfg: CfgNode) -> bool:
    """Whether a run of this config is on a GPU."""
    return torch.cuda.is_available() and cfg.USE_CUDA


CONDITIONS = [
    Condition(
        ("TRAIN.PRECISION", "TRAIN.DETERMINISTIC"),
        uses_cuda,
        "this run is on a CPU, which computes in fp32 and gives the same bits every time",
    )
]


def supported(trainer: type) -> tuple[str, ...]:
    """The values of TRAIN.PRECISION that a trainer can run in."""
    ask = getattr(trainer, "precisions", None)
    return EVERYWHERE if ask is None else ask()


def check_precision(cfg: CfgNode, trainer: type) -> None:
    """Refuse a precision that a trainer cannot run in.

    Raises:
        ValueError: naming those that it can.
    """
    wanted, known = cfg.TRAIN.PRECISION, supported(trainer)
    if wanted and wanted not in known:
        raise ValueError(
            f"TRAIN.PRECISION is {wanted!r}, but {trainer.__name__} runs in {', '.join(known)} "
            "only. Give one of these (--precision), or leave it out."
        )


def run_precision(cfg: CfgNode, trainer: type, device: torch.device) -> str:
    """What a run computes in: fp32 on a CPU; else TRAIN.PRECISION, else the trainer's own PREC."""
    ask: Callable[[CfgNode], str] | None = getattr(trainer, "own_precision", None)
    if device.type == "cpu":
        return OWN if ask is None else PRECISIONS[0]
    return cfg.TRAIN.PRECISION or (OWN if ask is None else ask(cfg))


@contextmanager
def numerics(cfg: CfgNode, trainer: type) -> Iterator[None]:
    """Set torch's switches for a run on a GPU; restores them.

    Without TRAIN.DETERMINISTIC cuDNN tries which kernel is the fastest, which differs from run to
    run. With it every operation gives the same bits again, or stops the run with its name.
    """
    check_precision(cfg, trainer)
    with ExitStack() as stack:
        if uses_cuda(cfg):
            precision = run_precision(cfg, trainer, torch.device("cuda"))
            for switch in _switches(precision, is_repeatable=cfg.TRAIN.DETERMINISTIC):
                stack.enter_context(switch)
        yield


def _switches(precision: str, *, is_repeatable: bool) -> Iterator[Any]:
    cudnn, same = torch.backends.cudnn, torch.are_deterministic_algorithms_enabled
    yield _attribute(cudnn, "benchmark", not is_repeatable)
    yield _attribute(cudnn, "deterministic", is_repeatable)
    if (rounds := TF32.get(precision)) is not None:
        products = torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
        yield _set_for_a_run(*products, "high" if rounds else "highest")
        yield _attribute(cudnn, "allow_tf32", rounds)
    if is_repeatable:
        yield _workspace()
        yield _set_for_a_run(same, torch.use_deterministic_algorithms, True)
        yield sdpa_kernel(SDPBackend.MATH)


@contextmanager
def _workspace() -> Iterator[None]:
    """The environment that cuBLAS needs to repeat its bits; one that is given stays."""
    is_given = bool(os.environ.get(WORKSPACE))
    os.environ[WORKSPACE] = os.environ.get(WORKSPACE) or WORKSPACE_SIZE
    try:
        yield
    finally:
        if not is_given:
            del os.environ[WORKSPACE]


def _attribute(owner: Any, name: str, value: Any) -> Any:
    return _set_for_a_run(partial(getattr, owner, name), partial(setattr, owner, name), value)


@contextmanager
def _set_for_a_run(get: Callable[[], Any], put: Callable[[Any], Any], value: Any) -> Iterator[None]:
    before = get()
    put(value)
    try:
        yield
    finally:
        put(before)
