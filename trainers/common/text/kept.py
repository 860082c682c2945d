"""Features of many frozen sentences, kept beside those of images: CuPL has 57 000 for ImageNet.

Every sentence is a row of its own: runs and target sets with some of the classes share them.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clip.model import CLIP
from dassl.features.store import KEY_BYTES, Store, Writer
from dassl.utils import cache_dir, only_writer, weights_digest

from .encode import encode_sentences

KEPT_FROM = 1024  # sentences; fewer are encoded faster than the weights are digested
BLOCK = 4096  # sentences that are encoded and written at a time


def kept_sentences(clip: CLIP, sentences: Sequence[str]) -> Tensor:
    """``encode_sentences`` in float32: N sentences -> (N, D) raw features, on the model's device.

    From KEPT_FROM different sentences on, those that any run has encoded are read from disk.
    """
    unique = list(dict.fromkeys(sentences))
    if len(unique) < KEPT_FROM:
        return encode_sentences(clip, sentences).float()
    store = Store(store_folder(clip), clip.visual.output_dim)
    keys = np.array([_key(sentence) for sentence in unique], dtype=f"S{KEY_BYTES}")
    if (store.locate(keys) < 0).any():
        store.folder.mkdir(parents=True, exist_ok=True)
        with only_writer(store.folder):
            store.refresh()  # another process may have been at work until now
            _fill(store, clip, unique, keys)
        store.refresh()
    rows = torch.from_numpy(store.rows.gather(store.locate(keys)))
    places = {sentence: place for place, sentence in enumerate(unique)}
    found = rows[torch.tensor([places[sentence] for sentence in sentences])]
    return found.to(clip.logit_scale.device)


def store_folder(clip: CLIP) -> Path:
    """Where rows of a backbone lie: depends on its weights and on what it computes in."""
    how = [weights_digest(clip), str(clip.dtype)]
    if clip.logit_scale.is_cuda and torch.get_float32_matmul_precision() != "highest":
        how.append("tf32")
    return cache_dir() / "sentences" / hashlib.sha256("\0".join(how).encode()).hexdigest()[:32]


def _fill(store: Store, clip: CLIP, sentences: list[str], keys: np.ndarray) -> None:
    """Encode what the store lacks; what is written stays if the run is killed."""
    missing = np.flatnonzero(store.locate(keys) < 0)
    writer = Writer(store)
    try:
        for first in range(0, len(missing), BLOCK):
            block = missing[first : first + BLOCK]
            features = encode_sentences(clip, [sentences[place] for place in block])
            writer.append(keys[block], features.float().cpu().numpy())
    finally:
        writer.close()


def _key(sentence: str) -> bytes:
    return hashlib.blake2b(sentence.encode(), digest_size=KEY_BYTES).digest()
