"""One run in several processes (``torchrun``): who writes, and what the processes tell each other.

Process r of W, its rank, computes a part of every training batch and every W-th batch of an
evaluation or of features to store. Without ``torchrun``, and outside ``joined``, there is one
process: everything here then does nothing and costs nothing.

Numbers and objects go through gloo on the host, tensors on a GPU through NCCL.
"""

import contextlib
import datetime
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from .heartbeat import Heartbeat, of_this_start

T = TypeVar("T")
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets
TIMEOUT_VARIABLE = "VLTUNE_RANKS_SECONDS"
TIMEOUT = 1800.0  # seconds that one process waits for the others

_is_joined = False


class LostRankError(ConnectionError):
    """Another process of this run has ended, or does not answer."""


# --------------------------------------------------------------------- who is who
def size() -> int:
    """Number W of processes that share this run; 1 in the usual case."""
    return dist.get_world_size() if _is_joined else 1


def rank() -> int:
    """Number of this process among them, from 0."""
    return dist.get_rank() if _is_joined else 0


def is_writer() -> bool:
    """Whether this process writes the files of the run: the first one does."""
    return rank() == 0


def launched() -> int:
    """Number of processes that ``torchrun`` has started for this command; 1 without it."""
    if not all(os.environ.get(name) for name in VARIABLES):
        return 1
    return int(os.environ["WORLD_SIZE"])


@contextlib.contextmanager
def joined(*, uses_cuda: bool) -> Iterator[None]:
    """Within the block, the processes that ``torchrun`` has started share one run.

    All but the writer are silent but for errors, which begin with their rank.

    Args:
        uses_cuda: each takes the GPU of its place on its machine (LOCAL_RANK).
    """
    global _is_joined
    if launched() == 1 or _is_joined:
        yield
        return
    backend = "gloo"
    if uses_cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl"
    timeout = datetime.timedelta(seconds=float(os.environ.get(TIMEOUT_VARIABLE, TIMEOUT)))
    heartbeat = Heartbeat()
    heartbeat.start()
    try:
        store, number, count = next(dist.rendezvous("env://", timeout=timeout))
        dist.init_process_group(
            backend, store=of_this_start(store), rank=number, world_size=count, timeout=timeout
        )
        _is_joined = True
        heartbeat.listen(rank(), size())
        with contextlib.nullcontext() if is_writer() else _silence():
            yield
            barrier()
        dist.destroy_process_group()  # not after an error: others may never come to it
    finally:
        heartbeat.end()
        _is_joined = False


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Print nothing, and log errors only, with the rank in front."""
    root, printed = logging.getLogger(), sys.stdout
    level, prefix = root.level, f"[rank {rank()}] "

    def name_rank(record: logging.LogRecord) -> bool:
        record.msg = prefix + str(record.msg)
        return True

    root.setLevel(logging.ERROR)
    for handler in root.handlers:
        handler.addFilter(name_rank)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        sys.stdout = nowhere
        try:
            yield
        except BaseException:
            root.setLevel(logging.ERROR)  # whoever reports it runs after this block
            raise
        else:
            root.setLevel(level)
            for handler in root.handlers:
                handler.removeFilter(name_rank)
        finally:
            sys.stdout = printed


# --------------------------------------------------------------------- parts
def part(rows: Sequence[T] | Any) -> Any:
    """This process's stretch of a batch: all stretches together are the batch, in order.

    Raises:
        ValueError: if there are fewer rows than processes.
    """
    count, parts = len(rows), size()
    if count < parts:
        raise ValueError(
            f"A training batch of {count} cannot be shared among {parts} processes. Start fewer "
            "(--nproc_per_node), or raise DATALOADER.TRAIN_X.BATCH_SIZE."
        )
    return rows[count * rank() // parts : count * (rank() + 1) // parts]


def every(batches: Sequence[T] | Any) -> Any:
    """This process's of a list of batches: each W-th, so that every batch is taken once."""
    return batches[rank() :: size()]


# --------------------------------------------------------------------- exchange
def _together(act: Callable[[], T]) -> T:
    """Do what all processes do at the same time; a lost one is named.

    Raises:
        LostRankError
    """
    try:
        return act()
    except RuntimeError as err:
        raise LostRankError(
            f"Another of the {size()} processes of this run has ended, or did not answer for "
            f"{os.environ.get(TIMEOUT_VARIABLE, int(TIMEOUT))} seconds; this one (rank {rank()}) "
            "ends, too. Files of the run are whole. Run the same command again to resume from the "
            f"last checkpoint. ({str(err).splitlines()[0][:160]})"
        ) from err


def barrier() -> None:
    """Wait until all processes are here."""
    if size() > 1:
        gather(None)


def gather(value: T) -> list[T]:
    """The values of all processes, by rank; anything that can be pickled."""
    if size() == 1:
        return [value]
    found: list[Any] = [None] * size()
    _together(lambda: dist.all_gather_object(found, value))
    return found


def all_true(value: bool) -> bool:
    """Whether it is true in every process."""
    return all(gather(value))


def any_true(value: bool) -> bool:
    """Whether it is true in some process; asked after every step, so nothing is pickled."""
    if size() == 1:
        return value
    count = torch.tensor(float(value))
    sum_in_place(count)
    return bool(count)


def from_writer(act: Callable[[], T]) -> T:
    """What the writer's act returns, in every process; the others do not act."""
    found: list[Any] = gather(act() if is_writer() else None)
    return found[0]


def written(write: Callable[[], Any]) -> None:
    """Let the writer write; the others wait until it is done."""
    if is_writer():
        write()
    barrier()


def writer_first(act: Callable[[], T]) -> T:
    """Let the writer act first, then the others: what it has stored, they find."""
    if is_writer():
        found = act()
        barrier()
        return found
    barrier()
    return act()


def sum_in_place(values: Tensor) -> None:
    """Replace a tensor by its sum over all processes."""
    if size() > 1:
        _together(lambda: dist.all_reduce(values))


def mean(values: dict[str, Any], count: int) -> dict[str, Any]:
    """Means of numbers over all processes, each weighted by its number of samples.

    Where some are tensors on a GPU, so are the means: nobody waits for them until they are read.
    """
    if size() == 1 or not values:
        return values
    tensors = [value.detach() for value in values.values() if isinstance(value, Tensor)]
    device = tensors[0].device if tensors else torch.device("cpu")
    own = torch.stack(
        [
            value.detach().double().reshape(())
            if isinstance(value, Tensor)
            else torch.full((), float(value), dtype=torch.float64, device=device)
            for value in (*values.values(), 1.0)
        ]
    )
    own *= count
    sum_in_place(own)
    means = own[:-1] / own[-1]
    return dict(zip(values, means.tolist() if device.type == "cpu" else means, strict=True))


def gather_batches(own: Sequence[Tensor], count: int) -> list[Tensor]:
    """All ``count`` results of a list of batches of which each process computed ``every`` W-th.

    Args:
        own: this process's results (B, ...), in order; the last of all may be smaller.
        count: number of batches.
    """
    if size() == 1:
        return list(own)
    sizes = gather([tuple(rows.shape) for rows in own])
    longest = max(sum(shape[0] for shape in shapes) for shapes in sizes)
    # the writer has the first batch; another process may have none
    dtype, device = from_writer(lambda: (own[0].dtype, own[0].device.type))
    width = sizes[0][0][1:]
    padded = torch.zeros((longest, *width), dtype=dtype, device=device)
    if own:
        padded[: sum(map(len, own))] = torch.cat(list(own))
    found = [torch.empty_like(padded) for _ in range(size())]
    _together(lambda: dist.all_gather(found, padded))
    split = [
        rows[: sum(s[0] for s in shapes)].split([s[0] for s in shapes] or [0])
        for rows, shapes in zip(found, sizes, strict=True)
    ]
    return [split[number % size()][number // size()] for number in range(count)]


def merge_rows(rows: Tensor) -> None:
    """Fill a tensor (N, ...), of which each process has computed ``every`` W-th row."""
    if size() == 1:
        return
    kept = every(rows).clone()
    rows.zero_()
    every(rows).copy_(kept)
    sum_in_place(rows)


def check_equal(name: str, value: float) -> None:
    """Stop if a number differs between the processes, which must compute the same.

    Raises:
        RuntimeError
    """
    found = gather(value)
    if any(other != found[0] for other in found):
        raise RuntimeError(
            f"{name} differ between the {size()} processes of this run: {found}. An update was "
            "made without the gradients of the others. Train in one process (without torchrun)."
        )
