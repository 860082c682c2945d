"""Kinds of sources. `fetch` puts archives or folders into a folder of downloads."""

import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

from dassl.utils.archives import DAMAGED
from dassl.utils.digests import DigestRecord
from dassl.utils.downloads import download_url

from .drive import download_from_drive

GIGABYTE = 10**9
ARCHIVES = (".zip", ".tar", ".tgz", ".gz")
SPARE = 10**8  # bytes that a file may be larger than twice its listed size


class Source(Protocol):
    """Where a dataset, or a part of it, comes from."""

    @property
    def title(self) -> str:
        """What messages call it."""

    @property
    def folder(self) -> str:
        """Name of its folder below the dataset's downloads."""

    @property
    def is_unpacked(self) -> bool:
        """Whether it unpacks its archives itself."""

    def fetch(self, folder: Path, record: DigestRecord, names: Iterable[str]) -> None:
        """Download into `folder`.

        Args:
            record: digests of earlier downloads.
            names: what the dataset is called, for sources that hold many.

        Raises:
            OSError: not reachable, another file than before, no space.
        """


@dataclass(frozen=True)
class RemoteFile:
    """One file.

    Attributes:
        name: of the local file.
        addresses: of the same file, tried in order: https://..., or drive:<id> of Google Drive.
        gigabytes: its size, about.
        sha256: where it is published.
    """

    name: str
    addresses: tuple[str, ...]
    gigabytes: float
    sha256: str = ""

    def fetch(self, folder: Path, record: DigestRecord) -> Path:
        """The file in `folder`, downloaded unless it is there (put there by hand, say).

        Raises:
            OSError: from the last address, if none sends it.
        """
        path = folder / self.name
        if path.is_file():
            record.check(path, self.addresses[0], published=self.sha256)
            return path
        problems = []
        for address in self.addresses:
            try:
                self._download(address, path)
                record.check(path, address, published=self.sha256)
                return path
            except OSError as err:
                problems.append(f"{err}.")
        raise OSError(f"{' '.join(problems)} Fetched in another way, it belongs to {path}")

    def _download(self, address: str, path: Path) -> None:
        most = int(2 * self.gigabytes * GIGABYTE) + SPARE
        if address.startswith("drive:"):
            file_id = address.removeprefix("drive:")
            download_from_drive(file_id, path, sha256=self.sha256, most=most)
        else:
            download_url(address, path, sha256=self.sha256, most=most)


@dataclass(frozen=True)
class Files:
    """Files by their addresses."""

    title: str
    files: tuple[RemoteFile, ...]
    folder = "files"
    is_unpacked = False

    def fetch(self, folder: Path, record: DigestRecord, names: Iterable[str]) -> None:
        """As `Source.fetch`; all files are needed."""
        for file in self.files:
            file.fetch(folder, record)


@dataclass(frozen=True)
class HubRepository:
    """A Hugging Face repository with an archive or a folder per dataset; its list is read.

    Attributes:
        repository: owner/name, of a dataset repository or else of a model repository.
        endpoint: of the hub; None: HF_ENDPOINT or huggingface.co.
    """

    repository: str
    endpoint: str | None = None
    folder = "hub"
    is_unpacked = False

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"{self.repository} on the Hugging Face hub"

    def fetch(self, folder: Path, record: DigestRecord, names: Iterable[str]) -> None:
        """As `Source.fetch`: the files whose name, or whose top folder, is one of `names`."""
        from huggingface_hub import hf_hub_download

        kind, revision, files = self.listing()
        wanted = [file for file in files if is_named(file.rfilename, names)]
        if not wanted:
            known = ", ".join(sorted(file.rfilename for file in files)[:30])
            raise OSError(f"{self.title} has no file for {' or '.join(names)}. It has: {known}")
        for file in wanted:
            with _hub_errors(self.title):
                path = hf_hub_download(
                    self.repository,
                    file.rfilename,
                    repo_type=kind,
                    revision=revision,
                    local_dir=folder,
                    endpoint=self.endpoint,
                )
            published = file.lfs.sha256 if file.lfs else ""
            record.check(Path(path), f"{self.repository}@{revision}", published=published)

    def listing(self) -> tuple[str, str, list[Any]]:
        """Kind of repository, commit, and its files with sizes and digests.

        Raises:
            OSError: if there is no such repository, or the hub does not answer.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RepositoryNotFoundError

        from clip.hub import hub_answers

        if not hub_answers():
            raise OSError("the Hugging Face hub does not answer")
        api = HfApi(endpoint=self.endpoint)
        for ask, kind in ((api.dataset_info, "dataset"), (api.model_info, "model")):
            try:
                with _hub_errors(self.title):
                    info = ask(self.repository, files_metadata=True)
            except RepositoryNotFoundError:
                continue
            return kind, info.sha or "main", list(info.siblings or ())
        raise OSError(f"there is no public repository {self.repository} on the Hugging Face hub")


@contextmanager
def _hub_errors(title: str) -> Iterator[None]:
    """Any error as an OSError: which HTTP library raises depends on the hub's version."""
    try:
        yield
    except OSError:
        raise
    except Exception as err:
        raise OSError(f"{title} could not be read ({err!r})") from err


def is_named(path: str, names: Iterable[str]) -> bool:
    """Whether a file, or the folder that it is in, is named like one of `names`.

    >>> is_named("Caltech_101.zip", ["caltech101"])
    True
    """
    top = path.split("/")[0]
    for suffix in reversed(ARCHIVES):
        top = top.removesuffix(suffix)
    plain = {re.sub(r"[^a-z0-9]", "", name.lower()) for name in names}
    return re.sub(r"[^a-z0-9]", "", top.lower()) in plain


@dataclass(frozen=True)
class Torchvision:
    """A dataset class of torchvision, which checks MD5 sums and unpacks; we download for it."""

    name: str
    settings: tuple[tuple[str, str], ...] = ()
    folder = "torchvision"
    is_unpacked = True

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"torchvision's {self.name}"

    def fetch(self, folder: Path, record: DigestRecord, names: Iterable[str]) -> None:
        """As `Source.fetch`; what an interrupted run has unpacked is unpacked again."""
        from torchvision import datasets as sources

        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_dir():
                with suppress(OSError):  # it holds a download
                    path.rmdir()
            elif path.suffix not in (*ARCHIVES, ".part", ".version"):
                path.unlink()
        try:
            with mock.patch.multiple(sources.utils, **_DOWNLOADS):
                getattr(sources, self.name)(str(folder), download=True, **dict(self.settings))
        except DAMAGED as err:
            shutil.rmtree(folder)
            raise OSError(f"it sent a damaged archive ({err}), which was deleted") from err
        except RuntimeError as err:  # a file that is not what torchvision expects
            raise OSError(str(err)) from err
        for path in sorted(folder.rglob("*")):
            if path.suffix in ARCHIVES and path.is_file():
                record.check(path, self.title)


def _retrieve(url: str, filename: str, chunk_size: int = 0) -> None:
    download_url(url.replace("http://", "https://"), filename)


# what torchvision.datasets.utils has in their place neither resumes nor ends when a server is mute
_DOWNLOADS: dict[str, Any] = {
    "_urlretrieve": _retrieve,
    "_get_redirect_url": lambda url, max_hops=3: url,
}
