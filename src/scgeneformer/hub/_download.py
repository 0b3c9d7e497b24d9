"""Download a file of known size over HTTP, resuming interrupted transfers."""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING

import requests
import urllib3
from tqdm.auto import tqdm

if TYPE_CHECKING:
    from pathlib import Path

TRIES = 4  # consecutive requests without new data
PAUSE = 1.0  # seconds before the second try, doubled for each further one
_CHUNK = 2**16  # bytes that an interruption may lose
_TIMEOUT = (10, 60)  # seconds to connect, and between two reads
_WINDOW = 60.0  # seconds in which a server must send
_LEAST = 2**16  # bytes
_MOST_UNKNOWN = 2**20  # bytes of a file of unknown size, such as a config
_BUSY = (408, 425, 429)
_GONE = (404, 410)
_BAD_RANGE = 416
_SERVER_ERROR = 500  # and above


class _InterruptedTransfer(Exception):
    """Transfer to be retried."""


_TRANSIENT = (
    _InterruptedTransfer,
    requests.ConnectionError,
    requests.Timeout,
    urllib3.exceptions.HTTPError,
)


def without_password(address: str) -> str:
    """`address` for messages: without the name and password of a user."""
    return re.sub(r"://[^/\s]*@", "://***@", address)


def download(url: str, part: Path, size: int | None, *, progress: bool = False) -> bool:
    """Download the `size` bytes at `url` to `part`.

    Bytes already in `part` are kept and the rest is requested by HTTP Range; the download starts over if the server
    does not support that range. Interrupted connections and busy servers are retried after growing pauses.

    Parameters
    ----------
    url
        HTTP or HTTPS address.
    part
        File to write; it is kept after an interruption, to be resumed by the next call.
    size
        Expected size in bytes; None for what the server says, at most 1 MiB.
    progress
        Show a progress bar.

    Returns
    -------
    Whether the file was joined from several transfers, which may be of different files.

    Raises
    ------
    FileNotFoundError
        If the server does not have the file.
    ConnectionError
        If the server cannot be reached, refuses the request, repeatedly interrupts it, or is slower than 1 kB per second.
    ValueError
        If the file has another size; `part` is removed.
    """
    size = _told_size(url, part) if size is None else size
    best, tries, joined = _size(part), 0, False
    with tqdm(
        total=size, desc=part.stem, unit="B", unit_scale=True, unit_divisor=1000, disable=not progress, initial=best
    ) as bar:
        while (have := _size(part)) != size:
            if have > size:  # left by something else
                part.unlink()
                continue
            try:
                joined = _transfer(url, part, have, size, bar) or joined
            except _TRANSIENT as error:
                now = _size(part)
                tries = 0 if now > best else tries + 1
                best = max(best, now)
                if tries >= TRIES:
                    msg = (
                        f"Could not download {without_password(url)}: {without_password(str(error))}. {now:,} of {size:,} bytes were received; call again to resume."
                        " Without network, point SCGENEFORMER_MIRROR (`settings.mirror`) to a copy of the repository."
                    )
                    raise ConnectionError(msg) from error
                time.sleep(PAUSE * 2**tries / 2 if tries else 0)
    return joined


def _told_size(url: str, part: Path) -> int:
    try:
        with _answer(url, {"Accept-Encoding": "identity"}) as response:
            _check_status(response, part)
            _, size = _extent(response, continued=False)
    except _TRANSIENT as error:
        msg = f"Could not download {without_password(url)}: {without_password(str(error))}. Call again."
        raise ConnectionError(msg) from error
    if size is None or size > _MOST_UNKNOWN:
        size_text = "no size" if size is None else f"{size:,} bytes"
        msg = f"{without_password(url)} was not downloaded: its sha256 is not known, and the server reports {size_text}; without a sha256, at most {_MOST_UNKNOWN:,} bytes are accepted."
        raise ValueError(msg)
    return size


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _transfer(url: str, part: Path, have: int, size: int, bar: tqdm) -> bool:
    """Make one request; return whether it resumed the transfer."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with _answer(url, headers) as response:
        _check_status(response, part)
        continued = response.status_code == requests.codes.partial_content
        start, total = _extent(response, continued=continued)
        if continued and start != have:
            part.unlink()
            msg = f"the server resumed from byte {start} instead of {have}"
            raise _InterruptedTransfer(msg)
        if total not in (None, size):
            part.unlink(missing_ok=True)
            msg = f"{without_password(url)} is not the expected file: expected {size:,} bytes, found {total:,}."
            raise ValueError(msg)
        received = have if continued else 0
        bar.n = received
        bar.refresh()
        with part.open("ab" if continued else "wb") as out:
            since, before = time.monotonic(), received
            while received <= size and (chunk := response.raw.read1(_CHUNK, decode_content=True)):
                received += len(chunk)
                if received > size:
                    break
                out.write(chunk)
                bar.update(len(chunk))
                if (now := time.monotonic()) - since > _WINDOW:
                    if received - before < _LEAST:
                        msg = f"{without_password(url)}: the server sent {received - before:,} bytes in {now - since:.0f} seconds, which is too slow. Call again to resume, or use another mirror (`settings.mirror`)."
                        raise ConnectionError(msg)
                    since, before = now, received
    if received > size:
        part.unlink()
        msg = f"{without_password(url)} is not the expected file: expected {size:,} bytes, found more."
        raise ValueError(msg)
    if received < size:  # older urllib3 ends a broken body without an error
        msg = f"the connection closed after {received:,} of {size:,} bytes"
        raise _InterruptedTransfer(msg)
    return continued


def _answer(url: str, headers: dict[str, str]) -> requests.Response:
    """The answer of the server up to its body, which has `_WINDOW` seconds, however many redirections and bytes it consists of.

    A timeout of a socket restarts with every byte. The thread of a request that is given up ends with the connection.
    """
    answer: Future[requests.Response] = Future()

    def ask() -> None:
        try:
            answer.set_result(requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT))
        except (requests.RequestException, *_TRANSIENT) as error:
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.result(_WINDOW)
    except TimeoutError:
        if answer.done():  # an error of the request itself
            raise
        msg = f"{without_password(url)}: the server did not answer within {_WINDOW:.0f} seconds. Call again, or use another mirror (`settings.mirror`)."
        raise ConnectionError(msg) from None


def _check_status(response: requests.Response, part: Path) -> None:
    code = response.status_code
    if code in (requests.codes.ok, requests.codes.partial_content):
        return
    answer = f"{code} {response.reason}"
    if code in _GONE:
        msg = f"{without_password(response.url)}: {answer}."
        raise FileNotFoundError(msg)
    if code == _BAD_RANGE:  # what is here does not belong to the server's file
        part.unlink(missing_ok=True)
    if code == _BAD_RANGE or code in _BUSY or code >= _SERVER_ERROR:
        raise _InterruptedTransfer(answer)
    msg = f"{without_password(response.url)}: the server answered {answer}."
    raise ConnectionError(msg)


def _extent(response: requests.Response, *, continued: bool) -> tuple[int, int | None]:
    """Offset of the body in the file, and size of the file if the server reports it."""
    if continued:  # "bytes 100-199/200", or "*" for an unknown total
        span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        start = span.partition("-")[0]
        return int(start) if start.isdigit() else -1, int(total) if total.isdigit() else None
    length = response.headers.get("Content-Length", "")
    plain = response.headers.get("Content-Encoding", "identity") == "identity"
    return 0, int(length) if plain and length.isdigit() else None
