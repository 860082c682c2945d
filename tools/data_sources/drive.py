"""Google Drive: the address of a file, and the page that asks before it sends a large one."""

import urllib.parse
from html.parser import HTMLParser
from pathlib import Path

from dassl.utils.downloads import WebPageError, download_url

START = "https://drive.google.com/uc?export=download&id="


def download_from_drive(file_id: str, dst: Path, *, sha256: str = "", most: int) -> None:
    """Download a shared file; a large one comes after the form that says it is not scanned.

    Raises:
        OSError: as `download_url`; also where Drive asks to log in or refuses for its quota.
    """
    try:
        download_url(START + file_id, dst, sha256=sha256, most=most)
        return
    except WebPageError as err:
        address = confirmed_address(err.page)
        if not address:
            raise _refusal(file_id, err) from err
    try:
        download_url(address, dst, sha256=sha256, most=most)
    except WebPageError as err:
        raise _refusal(file_id, err) from err


def confirmed_address(page: str) -> str:
    """Where the page's form for large files leads, with its hidden fields; "" without one."""
    form = _Form()
    form.feed(page)
    return f"{form.action}?{urllib.parse.urlencode(form.fields)}" if form.action else ""


class _Form(HTMLParser):
    """The form `download-form` of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form" and given.get("id") == "download-form":
            self.action = given.get("action", "")
        elif tag == "input" and self.action and given.get("name"):
            self.fields[given["name"]] = given.get("value", "")


def _refusal(file_id: str, err: WebPageError) -> OSError:
    why = "too many have downloaded it today" if "quota" in err.page.lower() else str(err)
    return OSError(
        f"Google Drive does not send the file ({why}). Try again in a day, or open {START}{file_id}"
        " in a browser that is logged in"
    )
