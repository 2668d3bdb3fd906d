"""A package from another modelyard server: one POST, streamed into a file, with bounds on size and time and no redirects."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx

from modelyard.core.errors import Conflict, Forbidden, Invalid, NotFound, Unavailable, YardError

LARGEST = 16 << 30  # bytes: what an archive may unpack to
ANSWER_LIMIT = 64 << 10  # bytes of a refusal that are read
TIMEOUT = httpx.Timeout(60.0, connect=10.0)
ERRORS: dict[int, type[YardError]] = {401: Forbidden, 403: Forbidden, 404: NotFound, 409: Conflict, 422: Invalid}


def checked_url(url: str) -> str:
    """The URL itself if it names a server: http or https, a host, and nothing that could hide another one."""
    try:
        parts = urlsplit(url)
        named = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        named = False
    if not named or parts.username or parts.password or parts.query or parts.fragment:
        raise Invalid(f"{url!r:.200} is no server's URL. Write it as https://models.example.org.")
    return url.rstrip("/")


def download(url: str, listing_id: str, token: str, target: Path) -> None:
    """Write a listing's package into a file; the server counts the fetch for whoever the token belongs to."""
    where = f"{checked_url(url)}/api/v1/marketplace/listings/{quote(listing_id, safe='')}/package"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with (
            httpx.Client(timeout=TIMEOUT, follow_redirects=False, trust_env=False) as http,
            http.stream("POST", where, params={"suffix": "zip"}, headers=headers) as answer,
        ):
            if answer.status_code != 200:
                raise _refusal(url, answer)
            _write(answer, target)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(
            f"{url} cannot be reached: {error or type(error).__name__}. Is the server running?"
        ) from error


def _write(answer: httpx.Response, target: Path) -> None:
    size = 0
    with target.open("xb") as file:
        for chunk in answer.iter_raw():
            size += len(chunk)
            if size > LARGEST:
                raise Invalid(f"The package is larger than {LARGEST >> 30} GiB. Ask for it by other means.")
            file.write(chunk)


def _refusal(url: str, answer: httpx.Response) -> YardError:
    """The server's own words, which are shown as its words."""
    text = b""
    for chunk in answer.iter_raw():
        text += chunk
        if len(text) > ANSWER_LIMIT:
            break
    shown = text[:500].decode("utf-8", "replace")
    words = "".join(letter if letter.isprintable() else " " for letter in shown)
    kind = ERRORS.get(answer.status_code, Unavailable)
    return kind(f"{url} answered {answer.status_code}: {words}")
