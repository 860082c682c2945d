"""CLIP's byte-pair tokenizer: lower case, end-of-word marker, 49408 ids.

CLIP: Radford et al., ICML 2021, arXiv:2103.00020. Parity is tested in tests/golden/clip/tokens.
The merges file is the one that the open_clip_torch package ships (the same as OpenAI's).
"""

from __future__ import annotations

import gzip
import hashlib
import html
import importlib.util
from functools import lru_cache
from pathlib import Path

import ftfy
import regex

MERGES_FILE = "bpe_simple_vocab_16e6.txt.gz"
MERGES_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
MERGES = 48894  # lines 2 to 48895 of the file
SOT, EOT = "<|startoftext|>", "<|endoftext|>"
PATTERN = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    r"|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
)
CACHED_TEXTS = 65536


def default_bpe() -> Path:
    """Path of the merges file in the open_clip_torch package.

    Raises:
        FileNotFoundError: if the package, or the file in it, is missing.
    """
    spec = importlib.util.find_spec("open_clip")
    folder = Path(spec.origin).parent if spec and spec.origin else None
    if folder is None or not (folder / MERGES_FILE).is_file():
        raise FileNotFoundError(
            f"The tokenizer's merges file {MERGES_FILE} was not found in the open_clip package "
            f"({folder or 'not installed'}). Install it with: pip install open_clip_torch"
        )
    return folder / MERGES_FILE


@lru_cache(maxsize=1)
def bytes_to_unicode() -> dict[int, str]:
    """Map every byte to a printable character: 188 to themselves, 68 to code points from 256."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    codes = printable + [256 + i for i in range(len(others))]
    return {byte: chr(code) for byte, code in zip(printable + others, codes)}


def clean(text: str) -> str:
    """Repair the encoding, unescape HTML twice, collapse white space, lower the case."""
    if text.isascii() and text.isprintable() and "&" not in text:  # nothing there to repair
        return " ".join(text.split()).lower()
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return regex.sub(r"\s+", " ", text).strip().lower()


class SimpleTokenizer:
    """Text to token ids and back.

    Attributes:
        encoder: token string -> id.
        decoder: id -> token string.
        bpe_ranks: pair of token strings -> rank of their merge.

    Raises:
        FileNotFoundError: if there is no merges file.
        ValueError: if the merges file is not OpenAI's.
    """

    def __init__(self, bpe_path: str | Path | None = None):
        path = Path(bpe_path) if bpe_path else default_bpe()
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if digest != MERGES_SHA256:
            raise ValueError(
                f"{path} has SHA-256 {digest}, OpenAI's merges file has {MERGES_SHA256}. "
                "Reinstall it with: pip install --force-reinstall open_clip_torch"
            )
        lines = gzip.decompress(data).decode("utf-8").split("\n")[1 : MERGES + 1]
        merges = [tuple(line.split()) for line in lines]
        self.byte_encoder = bytes_to_unicode()
        self.byte_decoder = {char: byte for byte, char in self.byte_encoder.items()}
        chars = list(self.byte_encoder.values())
        vocab = chars + [char + "</w>" for char in chars]
        vocab += ["".join(merge) for merge in merges] + [SOT, EOT]
        self.encoder = {token: i for i, token in enumerate(vocab)}
        self.decoder = dict(enumerate(vocab))
        self.bpe_ranks = {merge: rank for rank, merge in enumerate(merges)}
        self.cache = {SOT: SOT, EOT: EOT}
        self._ids: dict[str, list[int]] = {}  # of words
        self.pat = regex.compile(PATTERN, regex.IGNORECASE)
        self._encode = lru_cache(maxsize=CACHED_TEXTS)(self._encode_text)

    def bpe(self, token: str) -> str:
        """Split a word (byte characters) into known tokens, separated by spaces."""
        if token not in self.cache:
            self.cache[token] = " ".join(self._merge(token))
        return self.cache[token]

    def _merge(self, token: str) -> list[str]:
        word = [*token[:-1], token[-1] + "</w>"]
        while len(word) > 1:
            pairs = set(zip(word, word[1:]))
            best = min(pairs, key=lambda pair: self.bpe_ranks.get(pair, MERGES))
            if best not in self.bpe_ranks:
                break
            merged, i = [], 0
            while i < len(word):
                if tuple(word[i : i + 2]) == best:
                    merged.append(word[i] + word[i + 1])
                    i += 2
                else:
                    merged.append(word[i])
                    i += 1
            word = merged
        return word

    def _encode_text(self, text: str) -> tuple[int, ...]:
        ids: list[int] = []
        for piece in self.pat.findall(clean(text)):
            if piece not in self._ids:
                token = "".join(self.byte_encoder[byte] for byte in piece.encode("utf-8"))
                self._ids[piece] = [self.encoder[part] for part in self.bpe(token).split(" ")]
            ids += self._ids[piece]
        return tuple(ids)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without start and end."""
        return list(self._encode(text))

    def decode(self, tokens) -> str:
        """The text of token ids; a word ends with a space."""
        text = "".join(self.decoder[int(token)] for token in tokens)
        data = bytearray(self.byte_decoder[char] for char in text)
        return data.decode("utf-8", errors="replace").replace("</w>", " ")
