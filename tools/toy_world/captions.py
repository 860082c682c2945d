"""Captions of toy images as compact token ids, drawn afresh at every visit.

Templates that people use with CLIP ("itap of a {}.", "art of the {}.", ...) occur in the captions,
so that their words are known. Some captions hold words that stand for nothing: the text tower
learns to pass over token rows that were never trained, as descriptions and long template lists
will bring them.
"""

from dataclasses import dataclass

import numpy as np
import torch

from clip.simple_tokenizer import SimpleTokenizer
from datasets.toy_world import FACTORS

PHOTO = (
    "a photo of {}", "a photo of {}", "a photo of {}", "a photo of {}", "itap of {}",
    "a bad photo of {}", "a good photo of {}", "a bright photo of {}", "a close-up photo of {}",
)  # fmt: skip
OTHER = {
    1: ("a painting of {}", "a painting of {}", "art of {}", "a rendition of {}"),
    2: ("a cartoon of {}", "a cartoon of {}", "{} in a video game", "a cartoon {-}", "art of {}"),
    3: ("a sketch of {}", "a sketch of {}", "a drawing of {}", "a doodle of {}"),
}
GENERIC = (
    "an image of {}", "a photo of {}", "{}", "{}", "a picture of {}", "an origami {-}",
    "a origami {-}", "a type of {}",
)  # fmt: skip
SIZE_WORDS = (("small",), ("medium",), ("large", "big"))
POSITION_WORDS = ("left", "right", "top", "bottom", "center")
ARTICLES = ("a", "an", "the")
NOISE_TOKENS = 2_000  # untrained rows that stand in for unknown words
NOISE_SEED = 7
MAX_WORDS = 24
MENTION = {
    "shape": 0.90, "color": 0.75, "texture": 0.60, "background": 0.40, "size": 0.25,
    "position": 0.30, "style": 0.50,
}  # fmt: skip
WRONG = 0.06  # each mentioned word is wrong with this probability
UNKNOWN = 0.15  # captions with meaningless words


@dataclass(frozen=True)
class Vocabulary:
    """Compact ids: start, the words in use, untrained words, end (the largest, as in CLIP)."""

    token_ids: np.ndarray  # compact id -> id in CLIP's vocabulary
    words: dict[str, tuple[int, ...]]  # word -> compact ids
    trained: int  # ids below this, and the end, are trained

    @property
    def start(self) -> int:
        return 0

    @property
    def end(self) -> int:
        return len(self.token_ids) - 1


def build_vocabulary() -> Vocabulary:
    tokenizer = SimpleTokenizer()
    texts = [
        *PHOTO,
        *GENERIC,
        *sum(OTHER.values(), ()),
        *ARTICLES,
        "object in on at .",
        "background",
    ]
    texts += [w for words in SIZE_WORDS for w in words] + list(POSITION_WORDS)
    texts += [w for words in FACTORS.values() for w in words]
    words = sorted({w for t in texts for w in t.replace("{}", " ").replace("{-}", " ").split()})
    ids = [tokenizer.encoder["<|startoftext|>"]]
    table: dict[str, tuple[int, ...]] = {}
    for word in words:
        codes = tokenizer.encode(word)
        for code in codes:
            if code not in ids:
                ids.append(code)
        table[word] = tuple(ids.index(code) for code in codes)
    trained = len(ids)
    rng = np.random.RandomState(NOISE_SEED)
    others = [int(i) for i in rng.permutation(np.arange(300, 49_000)) if i not in set(ids)]
    end = tokenizer.encoder["<|endoftext|>"]
    return Vocabulary(np.array([*ids, *others[:NOISE_TOKENS], end]), table, trained)


class Captioner:
    """Writes captions for rows of factor indices (columns in the order of ``FACTORS``)."""

    def __init__(self, vocabulary: Vocabulary, *, unknown: float = UNKNOWN):
        self.vocabulary = vocabulary
        self.unknown = unknown
        self.column = {name: i for i, name in enumerate(FACTORS)}

    def text(self, row: np.ndarray, rng: np.random.Generator) -> str:
        """One sentence for one image; unknown words are marked ``<?>``."""
        u = rng.random(24)
        said = {}
        for i, (name, words) in enumerate(FACTORS.items()):
            if u[i] < MENTION[name]:
                wrong = u[7 + i] < WRONG
                said[name] = int(rng.integers(len(words))) if wrong else int(row[self.column[name]])
        noun = FACTORS["shape"][said["shape"]] if "shape" in said else "object"
        parts = []
        if "size" in said:
            options = SIZE_WORDS[said["size"]]
            parts.append(options[int(u[14] * len(options))])
        if "color" in said:
            parts.append(FACTORS["color"][said["color"]])
        if "texture" in said and (said["texture"] or u[15] < 0.5):
            parts.append(FACTORS["texture"][said["texture"]])
        phrase = " ".join([*parts, noun])
        if "background" in said:
            place = FACTORS["background"][said["background"]]
            phrase += f" on a {place} background" if u[16] < 0.3 else f" in the {place}"
        if "position" in said:
            phrase += f" at the {POSITION_WORDS[said['position']]}"
        frame = self._frame(said, row, u, rng)
        sentence = frame.replace("{}", self._article(phrase, u) + phrase).replace("{-}", phrase)
        sentence += " ." if u[19] < 0.6 else ""
        return self._disturb(sentence, rng) if u[20] < self.unknown else sentence

    def _frame(self, said: dict, row: np.ndarray, u: np.ndarray, rng: np.random.Generator) -> str:
        options: tuple[str, ...]
        style = said.get("style")
        if style is None:
            options = PHOTO if row[self.column["style"]] == 0 and u[17] < 0.6 else GENERIC
        else:
            options = PHOTO if style == 0 else OTHER[style]
        return options[int(rng.integers(len(options)))]

    @staticmethod
    def _article(phrase: str, u: np.ndarray) -> str:
        if u[18] < 0.15:
            return "the "
        proper = "an " if phrase[0] in "aeiou" else "a "
        return "a " if u[18] < 0.25 else proper

    @staticmethod
    def _disturb(sentence: str, rng: np.random.Generator) -> str:
        words = sentence.split()
        for _ in range(int(rng.integers(1, 5))):
            words.insert(int(rng.integers(len(words) + 1)), "<?>")
        return " ".join(words)

    def encode(self, rows: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        """(N, 7) factors -> (N, L) compact ids; start tokens fill up after the end."""
        vocabulary = self.vocabulary
        out = np.full((len(rows), MAX_WORDS + 8), self.vocabulary.start, dtype=np.int64)
        longest = 0
        for i, row in enumerate(rows):
            ids = [vocabulary.start]
            for word in self.text(row, rng).split():
                if word == "<?>":
                    ids.append(vocabulary.trained + int(rng.integers(NOISE_TOKENS)))
                else:
                    ids.extend(vocabulary.words[word])
            ids.append(vocabulary.end)
            out[i, : len(ids)] = ids
            longest = max(longest, len(ids))
        return torch.from_numpy(out[:, :longest])

    def encode_sentences(self, sentences: list[str]) -> torch.Tensor:
        """Sentences of known words -> (N, L) compact ids."""
        vocabulary = self.vocabulary
        rows = []
        for sentence in sentences:
            words = sentence.replace(".", " .").split()
            rows.append(
                [vocabulary.start, *(i for w in words for i in vocabulary.words[w]), vocabulary.end]
            )
        out = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
        for i, ids in enumerate(rows):
            out[i, : len(ids)] = torch.tensor(ids)
        return out
