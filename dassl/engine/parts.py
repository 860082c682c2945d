"""The door without data: any trainer over batches of tensors and loaded networks.

The functions are methods of ``TrainerBase``. A trainer is built by its own ``__init__``, but over
what is given in place of a dataset: ``build_data_loader`` and what loads a network look at
``given_data`` and ``given_networks``.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from yacs.config import CfgNode

from dassl.config.tools import unfrozen
from dassl.data.given import Batches, GivenData


class TakesParts(Protocol):
    """What ``TrainerBase`` says of the parts that it may be given."""

    takes_networks: tuple[str, ...]
    takes_shots: bool


Built = TypeVar("Built", bound=TakesParts)


def from_parts(
    cls: type[Built],
    cfg: CfgNode,
    classnames: Sequence[str],
    batches: Batches | None,
    *,
    test: Batches | None = None,
    val: Batches | None = None,
    shots: Batches | None = None,
    all_classnames: Sequence[str] | None = None,
    **networks: Any,
) -> Built:
    """The trainer over tensors in the place of a dataset; all else is that of ``cls(cfg)``.

    No image file is read; training writes its usual files to OUTPUT_DIR.

        batches = [{"img": images, "label": labels}]  # (B, 3, H, W) normalised pixels, (B,)
        trainer = CoOp.from_parts(cfg, ["cat", "dog"], batches, test=batches, clip=clip)
        trainer.train()

    Args:
        cfg: the config, as ``dassl.engine.command.cli.make_config`` makes it of a command line;
            DATASET.NAME still chooses templates.
        classnames: ordered by label.
        batches: the training batches of every epoch, or a function epoch (from 0) -> batches,
            used in this order whatever DATALOADER says; None where nothing is trained. What
            they hold: ``dassl.data.given.GivenBatches``.
        test: batches of the test split, likewise; training without them needs TEST.NO_TEST.
        val: batches of the validation split.
        shots: the labelled images that a cache or memory is made of, where the training batches
            are other views of them; see ``takes_shots``.
        all_classnames: of the whole dataset, where ``classnames`` are a subset (LASP).
        networks: in the place of those that the config names; see ``takes_networks``.

    Raises:
        TypeError: for a network that the trainer does not take.
        ValueError: for a batch without inputs or labels, or with labels that have no name.
    """
    unknown = sorted(set(networks) - set(cls.takes_networks))
    if unknown:
        raise TypeError(
            f"{cls.__name__}.from_parts() takes no network {', '.join(unknown)}; it takes "
            f"{', '.join(cls.takes_networks) or 'none'}."
        )
    if shots is not None and not cls.takes_shots:
        raise TypeError(
            f"{cls.__name__}.from_parts() takes no shots: it learns from the batches alone."
        )
    data = GivenData(
        classnames,
        batches,
        test=test,
        val=val,
        shots=shots,
        all_classnames=all_classnames,
        num_source_domains=len(cfg.DATASET.SOURCE_DOMAINS),
    )
    return _over(cls, cfg.clone(), data, networks)


def _over(
    cls: type[Built], cfg: CfgNode, data: GivenData | None, networks: Mapping[str, Any]
) -> Built:
    if cls.takes_networks[:1] and cls.takes_networks[0] in networks:
        with unfrozen(cfg):
            cfg.MODEL.BACKBONE.NAME = ""  # it would name the network that is given
    trainer: Any = cls.__new__(cls)
    trainer.given_data, trainer.given_networks = data, networks
    trainer.__init__(cfg)
    return trainer


def sibling(self: Any, kind: type[Built], cfg: CfgNode) -> Built:
    """A trainer of another kind over this one's data and networks, given or of the config."""
    return _over(kind, cfg, self.given_data, self.given_networks)
