"""The memory of past test features: write rule, read-out, and replay of known features.

Source: DMN (arXiv 2403.17589). Slots hold raw unit features, so that trained offsets need no copy
of their own: beside its D floats a slot costs one row of the Gram matrix, one entropy, and a float
per offset.
"""

import torch
from torch import Tensor, nn

from .readout import Offsets, SlotTerms, class_products, read_logits, slot_terms, update_terms


class DynamicMemory(nn.Module):
    """M slots per class beside a fixed part that is never evicted.

    A feature is written to the slots of its pseudo-label: into the next free slot, or in place of
    the largest entropy if its own is strictly smaller (of equal ones the last slot goes).

    Buffers: ``slots`` (C, P + M, D), the fixed part first; ``gram`` (C, P + M, P + M);
    ``occupied`` (C, P + M); on the CPU, because every write reads them, ``entropies`` (C, M), 0 in
    free slots, and ``counts`` (C,).
    """

    slots: Tensor
    gram: Tensor
    occupied: Tensor
    entropies: Tensor
    counts: Tensor

    def __init__(
        self,
        fixed: Tensor,
        size: int,
        *,
        beta: float,
        scale: float,
        offsets: Offsets | None = None,
    ) -> None:
        """Begin empty.

        Args:
            fixed: (C, P, D) unit rows.
            size: M, at least 1.
            beta: sharpness of the read-out.
            scale: tau, already exponentiated.
            offsets: of the read-out; default none.

        Raises:
            ValueError: for a memory without slots.
        """
        super().__init__()
        if size < 1:
            raise ValueError(f"TRAINER.DMN.MEMORY_SIZE is {size}; expected at least 1 slot.")
        classes, self.fixed_size, width = fixed.shape
        self.size, self.beta, self.scale = size, beta, float(scale)
        self.offsets = offsets or Offsets()
        query = self.offsets.query
        self.mean_query = None if query is None else query.mean(dim=0)
        slots = torch.cat([fixed, fixed.new_zeros(classes, size, width)], dim=1)
        self.register_buffer("slots", slots.contiguous())
        self.register_buffer("gram", slots @ slots.transpose(1, 2))
        occupied = slots.new_zeros(classes, self.fixed_size + size)
        occupied[:, : self.fixed_size] = 1
        self.register_buffer("occupied", occupied)
        self.register_buffer("entropies", torch.zeros(classes, size))
        self.register_buffer("counts", torch.zeros(classes, dtype=torch.int64))
        self.terms: SlotTerms = slot_terms(self.slots, self.offsets)

    @property
    def features(self) -> Tensor:
        """(C, M, D) stored test features, zeros in free slots."""
        return self.slots[:, self.fixed_size :]

    # ----------------------------------------------------------------- write
    def choose_slot(self, label: int, entropy: float) -> int:
        """The slot that a feature of this class goes to; -1 if it is rejected."""
        count = int(self.counts[label])
        if count < self.size:
            return count
        stored = self.entropies[label].numpy()
        largest = stored.max()
        if not entropy < largest:
            return -1
        return int((stored == largest).nonzero()[0][-1])

    def write(self, label: int, entropy: float, feature: Tensor) -> int:
        """Store a unit feature (D,) under its pseudo-label; returns its slot, -1 if rejected."""
        slot = self.choose_slot(label, entropy)
        if slot < 0:
            return slot
        if slot == int(self.counts[label]):
            self.counts[label] += 1
        self.entropies[label, slot] = entropy
        place = self.fixed_size + slot
        self.slots[label, place] = feature
        self.occupied[label, place] = 1
        row = self.slots[label] @ feature
        self.gram[label, place] = row
        self.gram[label, :, place] = row
        update_terms(self.terms, self.offsets, label, place, feature, self.mean_query)
        return slot

    # ----------------------------------------------------------------- read
    def read(self, queries: Tensor) -> Tensor:
        """(B, D) unit rows -> (B, C) logits of the memory as it is."""
        return self._logits(class_products(self.slots, queries), queries).t()

    def _logits(self, products: Tensor, queries: Tensor) -> Tensor:
        return read_logits(
            products,
            queries,
            self.gram,
            offsets=self.offsets,
            terms=self.terms,
            mean_query=self.mean_query,
            beta=self.beta,
            scale=self.scale,
            occupied=self.occupied,
        )

    def _class_logits(self, c: int, products: Tensor, queries: Tensor) -> Tensor:
        """(S, B) products of one class -> (B,) logits."""
        return read_logits(
            products[None],
            queries,
            self.gram[c : c + 1],
            offsets=self.offsets.of_class(c),
            terms=self.terms.of_class(c),
            mean_query=self.mean_query,
            beta=self.beta,
            scale=self.scale,
            occupied=self.occupied[c : c + 1],
        )[0]

    # ----------------------------------------------------------------- stream
    def step(self, label: int, entropy: float, feature: Tensor) -> tuple[Tensor, int]:
        """Write, then read with the same feature (D,): (C,) logits and the slot."""
        slot = self.write(label, entropy, feature)
        return self.read(feature[None])[0], slot

    def replay(
        self, labels: list[int], entropies: list[float], features: Tensor
    ) -> tuple[Tensor, list[int]]:
        """``step`` for B images at once: the same writes, the same read-outs.

        Read-outs never influence writes. So all images read the memory as it is in one matrix
        product; each write then corrects its class for the images from its own on.

        Args:
            labels: B pseudo-labels.
            entropies: of their predictions.
            features: (B, D) unit rows, in stream order.

        Returns:
            (B, C) logits, B slots (-1: rejected).
        """
        products = class_products(self.slots, features)  # (C, S, B)
        logits = self._logits(products, features)  # (C, B)
        neighbours = features @ features.t()
        written = []
        for t, (label, entropy) in enumerate(zip(labels, entropies, strict=True)):
            slot = self.write(label, entropy, features[t])
            written.append(slot)
            if slot >= 0:
                products[label, self.fixed_size + slot, t:] = neighbours[t, t:]
                later = self._class_logits(label, products[label, :, t:], features[t:])
                logits[label, t:] = later
        return logits.t(), written

    # ----------------------------------------------------------------- state
    def state(self, *, exact: bool = False) -> dict[str, Tensor]:
        """What a later stream needs to go on: stored features, entropies, counts.

        ``exact`` adds the slots' products (C, P + M, P + M) and ``terms/<offset>`` (C, P + M) with
        the rounding of the writes that made them, for a stream with the same fixed part.
        """
        own = {"features": self.features, "entropies": self.entropies, "counts": self.counts}
        if exact:
            terms = {f"terms/{name}": rows for name, rows in vars(self.terms).items()}
            own |= {"gram": self.gram, **{k: v for k, v in terms.items() if v is not None}}
        return {name: tensor.cpu().clone() for name, tensor in own.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take what ``state`` gave; the fixed part stays this run's.

        Raises:
            ValueError: if it belongs to a memory of another shape.
        """
        given, own = tuple(state["features"].shape), tuple(self.features.shape)
        if given != own:
            raise ValueError(
                f"The saved memory is {given} (classes, slots, width), this run's is {own}. "
                "Continue with the dataset, backbone and TRAINER.DMN.MEMORY_SIZE it began with."
            )
        self.features.copy_(state["features"])
        self.entropies.copy_(state["entropies"])
        self.counts.copy_(state["counts"])
        filled = torch.arange(self.size) < self.counts[:, None]
        self.occupied[:, self.fixed_size :] = filled.to(self.occupied)
        if "gram" in state:
            self.gram.copy_(state["gram"])
            terms = {k.removeprefix("terms/"): v for k, v in state.items() if "terms/" in k}
            self.terms = SlotTerms(**{name: rows.to(self.slots) for name, rows in terms.items()})
            return
        self.gram.copy_(self.slots @ self.slots.transpose(1, 2))
        self.terms = slot_terms(self.slots, self.offsets)

    def usage(self) -> dict[str, float]:
        """Occupancy in percent and what the memory costs, in bytes."""
        capacity = self.counts.numel() * self.size
        tensors = [self.slots, self.gram, self.occupied, self.entropies, self.counts]
        tensors += [t for t in vars(self.terms).values() if t is not None]
        total = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return {
            "occupancy_percent": 100.0 * int(self.counts.sum()) / capacity,
            "full_classes": int((self.counts == self.size).sum()),
            "empty_classes": int((self.counts == 0).sum()),
            "bytes": total,
            "bytes_per_class_and_slot": total / (self.slots.shape[0] * self.slots.shape[1]),
        }
