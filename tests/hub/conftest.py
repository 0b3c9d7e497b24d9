"""A small HTTP server that misbehaves as told, and settings that point to it."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import numpy as np
import pytest

from scgeneformer import settings
from scgeneformer.hub import _download
from scgeneformer.hub._registry import GENERATIONS, MODELS, Generation, Model, RemoteFile
from scgeneformer.tokens import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = np.random.default_rng(0).bytes(300_000)


@dataclass
class Server:
    """`files` by path; `plan` says how the next requests are answered, one entry each, after that properly.

    Entries: a status code, or a name with an optional number of bytes: ``drop`` (promise all, send n), ``truncate`` (a file of
    n bytes), ``quiet`` (n bytes, no length told), ``surplus`` (n more bytes, no length told), ``corrupt`` (one byte changed),
    ``no_range`` (whole file whatever is asked; ``drop_whole`` and ``quiet_whole`` likewise), ``shifted`` (a range from
    elsewhere), ``stall`` (n bytes, then nothing), ``trickle`` (n bytes, then one after the other), ``trickle_head`` (the header, byte by byte).
    """

    url: str = ""
    content: bytes = CONTENT
    files: dict[str, bytes] = field(default_factory=dict)
    plan: list = field(default_factory=list)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    def remote(self, path: str) -> RemoteFile:
        """The entry of a file in a registry."""
        content = self.files[path]
        return RemoteFile(path, hashlib.sha256(content).hexdigest(), len(content))

    @property
    def ranges(self) -> list[str | None]:
        return [asked for _, asked in self.requests]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path, asked = handler.path.lstrip("/"), handler.headers["Range"]
        self.requests.append((path, asked))
        step = self.plan.pop(0) if self.plan else "proper"
        if isinstance(step, int) or path not in self.files:
            handler.send_error(step if isinstance(step, int) else 404)
            return
        how, n = step if isinstance(step, tuple) else (step, 0)
        if how == "trickle_head":
            for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10_000:
                handler.wfile.write(bytes([byte]))
                if self.release.wait(0.01):
                    return
        content = self.files[path]
        if how == "truncate":
            content = content[:n]
        if how == "corrupt":
            content = bytes([content[0] ^ 1]) + content[1:] if not asked else content[:-1] + bytes([content[-1] ^ 1])
        whole = asked is None or how in ("no_range", "drop_whole", "quiet_whole")
        start = 0 if whole else int(asked.removeprefix("bytes=").rstrip("-"))
        if how == "shifted":
            start -= 10
        if start >= len(content):
            handler.send_error(416)
            return
        body = content[start:]
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if how not in ("quiet", "quiet_whole", "surplus"):
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        rest = body[n:] if how == "trickle" else b""
        if how in ("drop", "drop_whole", "quiet", "quiet_whole", "stall", "trickle"):
            body = body[:n]
        handler.wfile.write(body + b"x" * (n if how == "surplus" else 0))
        handler.wfile.flush()
        for byte in rest:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            if self.release.wait(0.01):
                return
        if how == "stall":
            self.stalled.set()
            self.release.wait(30)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server(files={"folder/file.bin": CONTENT})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(ConnectionError):  # the client may have been killed
                state.answer(self)

        def do_HEAD(self) -> None:
            state.requests.append((self.path, "HEAD"))
            self.send_error(405)

        def log_message(self, *args: object) -> None:
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}"
    yield state
    state.release.set()
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder, no mirror, no progress bars, no pauses between attempts."""
    monkeypatch.setattr(_download, "PAUSE", 0)
    with settings.override(cache_dir=tmp_path / "cache", mirror=None, offline=False, progress=False):
        yield tmp_path / "cache"


@pytest.fixture
def online(server: Server, cache: Path) -> Iterator[Path]:
    """The same, with the server as mirror; returns the place of the one file in the cache."""
    with settings.override(mirror=server.url):
        yield cache / "folder" / "file.bin"


@pytest.fixture
def file(server: Server) -> RemoteFile:
    return server.remote("folder/file.bin")


@pytest.fixture(scope="session")
def tiny_vocabulary() -> Vocabulary:
    genes = [f"ENSG{number:011d}" for number in range(1, 8)]
    return Vocabulary(
        "tiny",
        np.array(["<pad>", "<mask>", "<cls>", "<eos>", *genes]),
        np.array([np.nan] * 4 + [0.5, 1, 2, 3, 4, 5, 6.25]),
        max_length=16,
        aliases={"GATA4": genes[0]},
    )


@pytest.fixture(scope="session")
def tiny_folder(tiny_vocabulary: Vocabulary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 11 tokens and 16 positions in the Hugging Face layout, with its vocabulary. Not to be changed."""
    import torch

    from scgeneformer import nn

    folder = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    config = nn.EncoderConfig(len(tiny_vocabulary), n_layers=1, width=8, n_heads=2, feed_forward=12, max_length=16)
    nn.save_checkpoint(folder, nn.MaskedGeneModel(config))
    tiny_vocabulary.save(folder / "vocabulary.json")
    return folder


@pytest.fixture
def tiny_model(server: Server, tiny_folder: Path, tiny_vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a model in the registry, whose generation has dictionaries like the official ones; all are on the server."""
    genes = tiny_vocabulary.ids[4:].tolist()
    dictionaries = {
        "tokens": {token: number for number, token in enumerate(tiny_vocabulary.ids.tolist())},
        "medians": dict(zip(genes, tiny_vocabulary.medians[4:].tolist(), strict=True)),
        "mapping": {gene: gene for gene in genes} | {"GATA4": genes[0]},
        "names": {"GATA4": genes[0]},
    }
    for name, content in dictionaries.items():
        server.files[f"geneformer/{name}.pkl"] = pickle.dumps(content)
    for name in ("config.json", "model.safetensors"):
        server.files[f"Geneformer-T-1/{name}"] = (tiny_folder / name).read_bytes()
    files = {name: server.remote(f"geneformer/{name}.pkl") for name in dictionaries}
    generation = Generation("T", len(tiny_vocabulary), tiny_vocabulary.max_length, **files)
    config, weights = (server.remote(f"Geneformer-T-1/{name}") for name in ("config.json", "model.safetensors"))
    model = Model("T-1", "T", "BERT encoder", 1, 8, 1000, config, weights, "none", "for tests")
    monkeypatch.setitem(GENERATIONS, "T", generation)
    monkeypatch.setitem(MODELS, "T-1", model)
    return "T-1"


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that may be changed, without its vocabulary."""
    copy = shutil.copytree(tiny_folder, tmp_path / "mine")
    (copy / "vocabulary.json").unlink()
    return copy


@pytest.fixture
def official(shared: Path, cache: Path, tmp_path: Path) -> Iterator[None]:
    """The real dictionaries, laid out as a mirror of the repository."""
    for generation in GENERATIONS.values():
        for file in generation.files:
            place = tmp_path / "official" / file.path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(shared / "geneformer" / generation.name / place.name)
    with settings.override(mirror=tmp_path / "official", offline=True):
        yield
