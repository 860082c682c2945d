"""What methods need beside images and can be fetched ahead: CuPL's sentences, MoCo v3's weights."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .catalog import DMN
from .sources import RemoteFile

# SHA-256 of DMN's files at the commit of the address; "" where it was not at hand
_CUPL = {
    "imagenet": "",
    "caltech101": "b5c3f52be95a1e450c4ebbac1fd0d2644a5d2efc2bac15e1a82cad587fdd09f6",
    "dtd": "b5d2ae76c1e8e5ded0df87d70aa60ce78730060ae65d7b36c30034457b8cfbe8",
    "eurosat": "c1831f13dff8f8f2b6e3121b122b4e40582ccc1274537c3f9023641d35d07234",
    "fgvcaircraft": "3d0733867fa1e30a229639df9528d9da3fe11b9cf56c0cd6eda11688d9a31393",
    "flowers102": "904c8850eafeaa1cc60a0f55fab7bdc168af4b2d1e5cb5bd06c5d32cbbc9d676",
    "food101": "67cb17f323b7f0726e4b152224365fda289658ff92b0d14ee264910a16af96dc",
    "oxfordpets": "f393a01f911ceed70458d1b7fa3b8f2df2148732210b3783488f2efecc672c95",
    "stanfordcars": "8b84424728b57442cbe190b0d996fda7a16fbb8ac42617911c61fea8f1496a53",
    "sun397": "b6e2c68f1cfaad78a725de1aea337cea8f5481402708225bcecbe8ce8b436967",
    "ucf101": "3acc805cbcd115331cc975f6146b24de2fc1732c45ee54a57c25259facbc6b9a",
}


@dataclass(frozen=True)
class Extra:
    """Files that are used as they come.

    Attributes:
        use: which method reads them.
        files: kind of `RemoteFile`, all needed.
        place: data root -> the folder where the method looks.
    """

    use: str
    licence: str
    files: tuple[RemoteFile, ...]
    place: Callable[[Path], Path]


def _weights_folder(_root: Path) -> Path:
    from dassl.utils import cache_dir

    return cache_dir() / "weights"


def _cupl_files() -> tuple[RemoteFile, ...]:
    return tuple(
        RemoteFile(f"CuPL_prompts_{name}.json", (f"{DMN}/gpt3_prompts/CuPL_prompts_{name}.json",),
                   0.01, sha256)
        for name, sha256 in _CUPL.items()
    )  # fmt: skip


EXTRAS = {
    "cupl": Extra("DMN: sentences about classes", "MIT", _cupl_files(), lambda root: root / "cupl"),
    "moco_v3": Extra(
        "AMU-Tuning: weights of its second network",
        "CC BY-NC 4.0",
        (
            RemoteFile(
                "r-50-1000ep.pth.tar",
                ("https://dl.fbaipublicfiles.com/moco-v3/r-50-1000ep/r-50-1000ep.pth.tar",),
                0.4,
            ),
        ),
        _weights_folder,
    ),
}
