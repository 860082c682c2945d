"""The Hugging Face hub, asked once whether it answers: without network, attempts end in seconds."""

from __future__ import annotations

import contextlib
import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator

DEFAULT_ENDPOINT = "https://huggingface.co"
TIMEOUT = 4  # seconds to connect


def hub_answers() -> bool:
    """Whether the hub (HF_ENDPOINT), or the proxy on the way to it, accepts a connection."""
    endpoint = os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT
    url = urllib.parse.urlsplit(endpoint)
    if not urllib.request.proxy_bypass(url.hostname or ""):
        proxy = urllib.request.getproxies().get(url.scheme)
        url = urllib.parse.urlsplit(proxy) if proxy else url
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        socket.create_connection((url.hostname or "", port), TIMEOUT).close()
    except (OSError, UnicodeError):
        return False
    return True


@contextlib.contextmanager
def cached_only_when_offline() -> Iterator[bool]:
    """Look into the hub's cache alone, without retries, while the hub does not answer.

    Yields whether it answers.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or hub_answers():
        yield not constants.HF_HUB_OFFLINE
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield False
    finally:
        constants.HF_HUB_OFFLINE = False
