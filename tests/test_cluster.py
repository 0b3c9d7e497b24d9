"""The workers of a Dask cluster give the results of this process, even if workers die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from dask.sizeof import sizeof
from distributed import Client, LocalCluster
from scipy import sparse

import scgeneformer as sg
from scgeneformer import _cluster, engine
from scgeneformer.engine.perturb import Perturbation, Store, _run

SIZE = 40  # perturbations in a part
SHAPE = {"n_layers": 2, "width": 16, "n_heads": 2, "feed_forward": 24, "max_length": 64}


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    with Client(cluster) as client:
        client.wait_for_workers(2)
        yield client


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(name="encoder")
def make_encoder():
    torch.manual_seed(0)
    encoder = sg.nn.Encoder(sg.nn.EncoderConfig(vocab_size=80, **SHAPE))
    with torch.no_grad():
        for p in encoder.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return encoder.eval()


@pytest.fixture(name="tokens")
def make_tokens():
    rng = np.random.default_rng(0)
    tokens = np.zeros((40, 64), np.uint16)
    for row, n in zip(tokens, rng.integers(3, 62, 40), strict=True):
        row[: n + 2] = [2, *rng.permutation(np.arange(4, 80))[:n], 3]
    return tokens


def perturb(encoder, tokens, **options):
    options = {"states": np.random.default_rng(2).normal(size=(2, 16)), "effects": True} | options
    perturbation = Perturbation("delete", genes=np.arange(4, 80))
    placing = {"device": "cpu", "precision": "float32", "token_budget": 500}
    return engine.perturb.run(encoder, tokens, perturbation, pooling="mean", n_special=4, **placing, **options)


def bits(outcome):
    effects = {} if outcome.effects is None else outcome.effects.stored()
    arrays = {"cells": outcome.cells, "what": outcome.what, "values": outcome.values, **effects}
    return {name: (x.dtype, x.shape, x.tobytes()) for name, x in arrays.items()}


@pytest.fixture
def expected(encoder, tokens, monkeypatch):
    for method in ("exact", "screen"):
        monkeypatch.setitem(_run.PART_SIZE, method, SIZE)
    return bits(perturb(encoder, tokens))


@pytest.fixture
def computes_nothing(monkeypatch):
    """Nothing runs through a model in this process."""
    monkeypatch.setattr(_run, "measure", None)


def test_workers_give_the_same_bytes(client, encoder, tokens, expected, computes_nothing):
    assert bits(perturb(encoder, tokens)) == expected


def test_workers_screen_alike(cluster, encoder, tokens, expected):
    options = {"method": "screen", "effects": False}
    here = bits(perturb(encoder, tokens, **options))
    with Client(cluster):
        assert bits(perturb(encoder, tokens, **options)) == here


def living(cluster, killed):
    """Wait for, and return, processes of workers that were not killed."""
    for _ in range(300):
        pids = {nanny.pid for nanny in cluster.workers.values()} - {None, *killed}
        if pids:
            return sorted(pids)
        time.sleep(0.1)
    raise TimeoutError


def test_workers_that_are_killed_cost_their_parts_only(
    cluster, client, encoder, tokens, expected, tmp_path, monkeypatch
):
    """Five workers are killed at any time; parts already written are not computed again."""
    rng, write, written, killed = np.random.default_rng(0), Store.write, [], []
    work = _run._work(tokens, Perturbation("delete", genes=np.arange(4, 80)))
    n_parts = len(list(_run._parts(work, (tokens > 0).sum(1), SIZE)))
    at = set(rng.choice(n_parts - 4, 5, replace=False).tolist())

    def writing(self, part, arrays):
        write(self, part, arrays)
        if len(written) in at:
            killed.append(rng.choice(living(cluster, killed)))
            os.kill(killed[-1], signal.SIGKILL)
        written.append(part)

    monkeypatch.setattr(Store, "write", writing)
    outcome = perturb(encoder, tokens, store=Store(tmp_path, {}))
    assert len(set(killed)) == 5
    assert bits(outcome) == expected
    assert sorted(written) == list(range(n_parts))


def test_workers_embed_and_score_pairs_alike(cluster, encoder, tokens, monkeypatch):
    from scgeneformer.engine import _embed
    from scgeneformer.engine.network import _pairs

    monkeypatch.setattr(_embed, "PART_SIZE", 300)
    monkeypatch.setattr(_pairs, "PART_SIZE", 300)
    options = {"n_special": 4, "device": "cpu", "precision": "float32"}

    def compute():
        embeddings = engine.embed(encoder, tokens, pooling="mean", genes=True, **options)
        pairs = engine.network.attention(
            encoder,
            tokens,
            blocks=[0, 1],
            sources=np.arange(4, 20),
            targets=np.arange(10, 40),
            token_budget=None,
            progress=False,
            **options,
        )
        return [embeddings.cells, embeddings.genes, embeddings.n_cells, pairs.means, pairs.n_cells]

    here = compute()
    with Client(cluster):
        monkeypatch.setattr(_embed, "embed_rows", None)
        monkeypatch.setattr(_pairs, "for_each_batch", None)
        for on_workers, expected in zip(compute(), here, strict=True):
            assert on_workers.tobytes() == expected.tobytes()


def test_workers_search_a_reference_alike(cluster, monkeypatch):
    from scgeneformer.atlas import _query

    rng = np.random.default_rng(0)
    monkeypatch.setattr(_query, "PART_SIZE", 40)

    def cells(n):
        obs = pd.DataFrame({"type": rng.choice(["a", "b"], n)}, index=[f"cell{i}" for i in range(n)])
        return ad.AnnData(obs=obs, obsm={"X_geneformer": rng.normal(size=(n, 4)).astype(np.float32)})

    reference, here = sg.Reference.from_adata(cells(200), "type"), cells(100)
    there = here.copy()
    reference.query(here)
    with Client(cluster):
        monkeypatch.setattr(sg.stats.NeighborIndex, "nearest", None)
        reference.query(there)
    pd.testing.assert_frame_equal(there.obs, here.obs, check_exact=True)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_workers_write_the_embedding_of_an_atlas(client, tmp_path, monkeypatch):
    """From zarr to zarr; what reaches this process is smaller than one block."""
    ids = sg.hub.vocabulary("default").ids[4:304]
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(0.3, (96, 300)).astype(np.float32))
    atlas = ad.AnnData(counts, var=pd.DataFrame(index=ids))
    atlas.write_zarr(tmp_path / "atlas.zarr")
    sg.pp.tokenize(atlas)
    with sg.settings.override(device="cpu", precision="float32"):
        sg.tl.embed(atlas)
        lazy = ad.experimental.read_lazy(tmp_path / "atlas.zarr")
        lazy.X = lazy.X.rechunk((32, -1))
        sg.pp.tokenize(lazy)
        sg.tl.embed(lazy)
    gather, sizes = Client.gather, []

    def gathering(self, *args, **options):
        result = gather(self, *args, **options)
        sizes.append(sizeof(result))
        return result

    monkeypatch.setattr(Client, "gather", gathering)
    monkeypatch.setattr(engine, "embed", None)
    lazy.obsm["X_geneformer"].to_zarr(tmp_path / "embedding.zarr")
    assert sizes
    assert max(sizes) < 2_000
    written = zarr.open(tmp_path / "embedding.zarr")[:]
    np.testing.assert_allclose(written, atlas.obsm["X_geneformer"], atol=1e-5)


CLIENT = """
import os, signal, sys
from distributed import Client
from scgeneformer.engine.perturb import Store, _run
import test_cluster as tests

def writing(self, part, arrays, write=Store.write):
    write(self, part, arrays)
    if len(list(self.folder.glob("part-*"))) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    Store.write = writing
    _run.PART_SIZE["exact"] = tests.SIZE
    with Client(sys.argv[1]):
        encoder, tokens = (make.__wrapped__() for make in (tests.make_encoder, tests.make_tokens))
        tests.perturb(encoder, tokens, store=Store(sys.argv[2], {}))
"""


def test_a_client_that_is_killed_loses_nothing_that_was_written(cluster, encoder, tokens, expected, tmp_path):
    command = [sys.executable, "-c", CLIENT, cluster.scheduler_address, str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    parts = sorted(path.name for path in tmp_path.glob("part-*"))
    times = [(tmp_path / name).stat().st_mtime_ns for name in parts]
    with Client(cluster):
        assert bits(perturb(encoder, tokens, store=Store(tmp_path, {}))) == expected
    assert len(parts) == 3
    assert [(tmp_path / name).stat().st_mtime_ns for name in parts] == times


SCHEDULER = """
import time
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster:
        print(cluster.scheduler_address, flush=True)
        time.sleep(120)
"""


def test_a_scheduler_that_is_killed_loses_nothing_that_was_written(encoder, tokens, expected, tmp_path, monkeypatch):
    scheduler = subprocess.Popen([sys.executable, "-c", SCHEDULER], stdout=subprocess.PIPE, text=True)
    write = Store.write

    def writing(self, part, arrays):
        write(self, part, arrays)
        if len(list(tmp_path.glob("part-*"))) == 3:
            scheduler.kill()
            scheduler.wait()

    monkeypatch.setattr(Store, "write", writing)
    try:
        with Client(scheduler.stdout.readline().strip(), timeout=5) as client:
            client.wait_for_workers(1)
            with pytest.raises(ConnectionError, match="lost its scheduler .* same call resumes"):
                perturb(encoder, tokens, store=Store(tmp_path, {}))
    finally:
        scheduler.kill()
    n_parts = len(list(tmp_path.glob("part-*")))
    assert n_parts >= 3
    compute, computed = _run._part, []
    monkeypatch.setattr(_run, "_part", lambda *args, **options: computed.append(1) or compute(*args, **options))
    assert bits(perturb(encoder, tokens, store=Store(tmp_path, {}))) == expected
    assert len(computed) == len(list(tmp_path.glob("part-*"))) - n_parts


def test_an_interrupt_cancels_what_waits(client, encoder, tokens, expected, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        perturb(encoder, tokens, store=Store(tmp_path, {}))
    for _ in range(100):
        if not any(client.processing().values()):
            return
        time.sleep(0.1)
    raise TimeoutError


def call(function):
    return dict(_cluster.map_parts(function, [(number, ()) for number in range(3)]))


def test_errors_of_parts_are_raised_here(client):
    def full():
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        call(full)


def test_a_part_that_ends_its_workers_is_an_error(cluster, client, monkeypatch):
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)
    with pytest.raises(RuntimeError, match="died 1 times .*token_budget"):
        call(lambda: os._exit(1))


def test_workers_of_other_versions_are_refused(client, monkeypatch):
    monkeypatch.setattr(_cluster, "_versions", lambda: {"scgeneformer": "0.0", "torch": "1.0"})
    with pytest.raises(
        RuntimeError, match=r"has scgeneformer .* here and 0\.0 in the client, torch .* Install the same"
    ):
        call(int)


def test_workers_without_the_package_are_named(client):
    def hide():
        class Hidden:
            def find_spec(self, name, *_):
                if name.split(".")[0] == "scgeneformer":
                    msg = f"No module named {name!r}"
                    raise ModuleNotFoundError(msg, name=name)

        for name in [name for name in sys.modules if name.split(".")[0] == "scgeneformer"]:
            del sys.modules[name]
        sys.meta_path.insert(0, Hidden())

    client.run(hide)
    try:
        with pytest.raises(ModuleNotFoundError, match="lacks a package: No module named 'scgeneformer.*Install"):
            call(int)
    finally:
        client.restart()


def test_parts_wait_for_workers():
    with LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as empty, Client(empty):
        empty.scale(1)
        with pytest.warns(UserWarning, match="no workers"):
            assert call(int) == dict.fromkeys(range(3), 0)


@pytest.mark.parametrize(("asynchronous", "error"), [(True, TypeError), (False, ConnectionError)])
def test_clients_that_cannot_be_used(monkeypatch, asynchronous, error):
    client = SimpleNamespace(asynchronous=asynchronous, status="connecting", scheduler=None)
    monkeypatch.setattr("distributed.default_client", lambda: client)
    with pytest.raises(error, match="to compute in this process"):
        call(int)


def test_verbs_give_the_same_bytes(cluster, expected):
    """With states, random genes, estimates and their agreement, exact values, and an untrained encoder."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"state": ["sick", "well"] * 8}, index=[f"cell{i}" for i in range(16)])
    counts = sparse.csr_matrix(rng.poisson(1.0, (16, 40)).astype(np.float32))
    here = ad.AnnData(counts, obs, pd.DataFrame(index=sg.hub.vocabulary("default").ids[4:44]))
    with pytest.warns(UserWarning, match="vocabulary"):
        sg.pp.tokenize(here)
    there = here.copy()

    def screen(adata):
        states = {"groupby": "state", "source": "sick", "target": "well"}
        with sg.settings.override(device="cpu", token_budget=500):
            sg.tl.screen(adata, genes=adata.var_names[:8].tolist(), refine=2, allow_poor=True, **states)

    screen(here)
    with Client(cluster):
        screen(there)
    layers = {name for name in here.layers if name is not None}
    assert {"shift", "shift__reference", "shift__untrained"} <= layers
    for name in layers:
        assert there.layers[name].data.tobytes() == here.layers[name].data.tobytes(), name
    for name, centroid in here.uns["shift"]["centroids"].items():
        assert there.uns["shift"]["centroids"][name].tobytes() == centroid.tobytes()
    pd.testing.assert_frame_equal(there.uns["shift"]["screen"], here.uns["shift"]["screen"], check_exact=True)
