"""Commands on cells leave in a file what the functions leave in AnnData."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scgeneformer as sg
from scgeneformer.nn import LlamaConfig, NextGeneModel, save_checkpoint

STATES = {"groupby": "state", "source": "a", "target": "b", "others": ["c"]}
FLAGS = ["--groupby", "state", "--source", "a", "--target", "b", "--others", "c"]


def test_tokenize_then_embed_then_perturb(run, counts, model, tmp_path) -> None:
    tokens, embedded, perturbed, table = "tokens.h5ad", "embedded.h5ad", "perturbed.h5ad", "shifts.csv"
    assert run("tokenize", counts, tokens, "--model", model).status == 0
    assert run("embed", tokens, embedded, "--model", model, "--emb-layer", "0", "--genes").status == 0
    ran = run("perturb", tokens, perturbed, *FLAGS, "--max-cells", "5", "--min-cells", "2", "--table", table)
    assert (ran.status, ran.out) == (0, "")
    assert f"wrote {perturbed}" in ran.err

    ours = ad.read_h5ad(counts)
    sg.pp.tokenize(ours, model)
    np.testing.assert_array_equal(ad.read_h5ad(tokens).obsm["geneformer_tokens"], ours.obsm["geneformer_tokens"])
    sg.tl.embed(ours, model, emb_layer=0, genes=True)
    written = ad.read_h5ad(embedded)
    np.testing.assert_array_equal(written.obsm["X_geneformer"], ours.obsm["X_geneformer"])
    np.testing.assert_array_equal(written.varm["geneformer"], ours.varm["geneformer"])
    sg.tl.perturb(ours, **STATES, max_cells=5)
    sg.tl.rank_shifts(ours, min_cells=2)
    pd.testing.assert_frame_equal(ad.read_h5ad(perturbed).varm["shift"], ours.varm["shift"])
    pd.testing.assert_frame_equal(pd.read_csv(table), sg.get.shifts(ours))
    printed = run("get", "shifts", perturbed, "--n-top", "3")
    assert printed.out == sg.get.shifts(ours, n_top=3).to_csv(index=False)
    assert printed.err == ""


@pytest.mark.parametrize(
    ("verb", "flags", "options"),
    [
        ("perturb", ["--kind", "overexpress", "--genes", "G1", "G2"], {"kind": "overexpress", "genes": ["G1", "G2"]}),
        ("perturb", ["--kind", "inhibit", "--within", "cell_type"], {"kind": "inhibit", "within": "cell_type"}),
        ("screen", ["--screen", "--refine", "2", "--allow-poor"], {"refine": 2, "allow_poor": True}),
        ("perturb_sets", ["--sets", "sets.gmt", "--n-random", "2"], {"sets": {"S": ["G1", "G2", "G3"]}, "n_random": 2}),
    ],
)
def test_every_way_to_perturb(run, embedded, tmp_path, verb, flags, options) -> None:
    (tmp_path / "sets.gmt").write_text("S\t\tG1\tG2\tG3\n")
    ran = run("perturb", embedded, "out.h5ad", *FLAGS, *flags, "--max-cells", "6", "--table", "out.csv")
    assert ran.status == 0, ran.err
    ours = ad.read_h5ad(embedded)
    getattr(sg.tl, verb)(ours, **STATES, **options, max_cells=6)
    key = "shift_sets" if verb == "perturb_sets" else "shift"
    sg.tl.rank_shifts(ours, key=key)
    assert Path("out.csv").read_text() == sg.get.shifts(ours, key=key).to_csv(index=False)
    ranked = run("rank", "out.h5ad", "ranked.h5ad", "--key", key, "--table", "again.csv")
    assert ranked.status == 0, ranked.err
    assert Path("again.csv").read_text() == Path("out.csv").read_text()


def test_shifts_are_written_where_their_ranking_fails(run, embedded) -> None:
    ran = run("perturb", embedded, "out.h5ad", *FLAGS, "--max-cells", "4", "--test", "donors", "--donor", "none")
    assert ran.status == 2
    assert "none" in ran.err.splitlines()[-1]
    assert "shift" in ad.read_h5ad("out.h5ad").layers


def test_a_checkpoint_may_exist(run, embedded) -> None:
    for output in ("first.h5ad", "second.h5ad"):
        assert run("perturb", embedded, output, *FLAGS, "--max-cells", "4", "--checkpoint", "parts").status == 0


def test_embed_tokenizes_where_needed_and_reads_zarr(run, counts, model) -> None:
    ad.read_h5ad(counts).write_zarr("x.zarr")
    ran = run("embed", "x.zarr", "y.zarr", "--model", model, "--max-length", "20")
    assert "tokenizing first" in ran.err
    ours = ad.read_h5ad(counts)
    sg.pp.tokenize(ours, model, max_length=20)
    sg.tl.embed(ours, model)
    np.testing.assert_array_equal(ad.read_zarr("y.zarr").obsm["X_geneformer"], ours.obsm["X_geneformer"])


def test_options_of_tokens_that_exist_are_refused(refused, embedded) -> None:
    assert "['layer'] would do nothing" in refused("embed", embedded, "out.h5ad", "--layer", "raw")


def test_mudata_stays_mudata(run, counts, model) -> None:
    import mudata

    mudata.MuData({"gex": ad.read_h5ad(counts)}).write("x.h5mu")
    assert run("tokenize", "x.h5mu", "y.h5mu", "--model", model, "--mod", "gex").status == 0
    assert "geneformer_tokens" in mudata.read_h5mu("y.h5mu")["gex"].obsm


def test_counts_of_cell_ranger(run, counts, model) -> None:
    adata = ad.read_h5ad(counts)
    matrix = sparse.csr_matrix(adata.X)
    with h5py.File("x.h5", "w") as file:
        group = file.create_group("matrix")
        values = {"data": matrix.data.astype("int32"), "indices": matrix.indices, "indptr": matrix.indptr}
        for name, value in (values | {"shape": matrix.shape[::-1], "barcodes": adata.obs_names.to_numpy("S")}).items():
            group[name] = value
        names = adata.var_names.to_numpy("S")
        features = {"id": names, "name": names, "feature_type": [b"Gene Expression"] * len(names)}
        for name, value in (features | {"genome": [b"GRCh38"] * len(names)}).items():
            group[f"features/{name}"] = value
    ran = run("tokenize", "x.h5", "y.h5ad", "--model", model)
    assert ran.status == 0, ran.err
    sg.pp.tokenize(adata, model)
    np.testing.assert_array_equal(ad.read_h5ad("y.h5ad").obsm["geneformer_tokens"], adata.obsm["geneformer_tokens"])


def test_annotate_and_evaluate(run, embedded, classifier) -> None:
    assert run("annotate", embedded, "annotated.h5ad", "--model", classifier, "--min-score", "0.4").status == 0
    ours = ad.read_h5ad(embedded)
    sg.tl.annotate(ours, classifier, min_score=0.4)
    pd.testing.assert_frame_equal(ad.read_h5ad("annotated.h5ad").obs, ours.obs)
    ran = run("evaluate", embedded, "evaluated.h5ad", "--model", classifier, "--baselines", "probe")
    assert ran.status == 0, ran.err
    printed = run("get", "evaluation", "evaluated.h5ad").out.splitlines()
    assert [line.split(",")[0] for line in printed[1:]] == ["trained head", "linear probe", "most frequent class"]


def test_a_reference_of_a_file_and_of_a_folder(run, embedded) -> None:
    options = ["--labels", "cell_type", "--n-neighbors", "5"]
    assert run("transfer", embedded, "of_file.h5ad", embedded, *options).status == 0
    assert run("reference", "build", embedded, "reference", *options).status == 0
    assert run("reference", "query", embedded, "of_folder.h5ad", "reference").status == 0
    assert run("transfer", embedded, "by_transfer.h5ad", "--reference", "reference").status == 0
    ours = ad.read_h5ad(embedded)
    sg.tl.transfer(ours, ad.read_h5ad(embedded), "cell_type", n_neighbors=5)
    for name in ("of_file", "of_folder", "by_transfer"):
        found = ad.read_h5ad(f"{name}.h5ad").obs
        pd.testing.assert_frame_equal(found, ours.obs)


def test_network(run, embedded) -> None:
    edges = pd.DataFrame({"source": ["G1", "G2"], "target": ["G3", "G4"]})
    edges.to_csv("edges.csv", index=False)
    ran = run(
        "network", embedded, "out.h5ad", "--score", "token", "--edges", "edges.csv", "--table", "edges_scored.tsv"
    )
    assert ran.status == 0, ran.err
    ours = ad.read_h5ad(embedded)
    sg.tl.network(ours, score="token", edges=edges)
    pd.testing.assert_frame_equal(pd.read_csv("edges_scored.tsv", sep="\t"), sg.get.edges(ours), check_dtype=False)


WRITERS = {
    "integrate": (["--batch-key", "donor", "--method", "center"], {"batch_key": "donor", "method": "center"}),
    "compare_embeddings": (
        ["--batch-key", "cell_type", "--label-key", "state", "--baselines", "pca", "--metrics", "sklearn"],
        {"batch_key": "cell_type", "label_key": "state", "baselines": ["pca"], "metrics": "sklearn"},
    ),
    "state_score": (
        ["--groupby", "state", "--source", "a", "--target", "b", "--n-bootstrap", "20"],
        {"groupby": "state", "source": "a", "target": "b", "n_bootstrap": 20},
    ),
    "score_sets": (["--sets", "sets.gmt", "--n-random", "5"], {"sets": {"S": ["G1", "G2", "G3", "G4", "G5"]}, "n_random": 5}),
    "likelihood": (["--n-passes", "2", "--genes"], {"n_passes": 2, "genes": True}),
    "complete": (["--model", "decoder", "--n-genes", "3", "--max-length", "12"], {"model": "decoder", "n_genes": 3, "max_length": 12}),
    "centrality": (["--n-edges", "50", "--min-cells", "12"], {"n_edges": 50, "min_cells": 12}),
    "evaluate_network": (
        ["--truth", "truth.csv", "--baselines", "random", "degree", "--n-bootstrap", "20", "--n-permutations", "20"],
        {"baselines": ["random", "degree"], "n_bootstrap": 20, "n_permutations": 20},
    ),
    "evaluate_shifts": (
        ["--truth", "G1", "G2", "G3", "--n-top", "5", "--n-bootstrap", "20"],
        {"truth": ["G1", "G2", "G3"], "n_top": [5], "n_bootstrap": 20},
    ),
}  # fmt: skip
TABLES = {"compare_embeddings": "embedding_scores", "evaluate_network": "evaluation", "evaluate_shifts": "evaluation"}


@pytest.fixture
def analysed(run, embedded, model) -> str:
    """Cells with all slots that the tests below read, and the files that they name."""
    adata = ad.read_h5ad(embedded)
    vocabulary = sg.hub.load(model).vocabulary
    config = LlamaConfig(len(vocabulary), 1, 8, n_heads=2, n_kv_heads=1, head_width=4, feed_forward=8, max_length=64)
    save_checkpoint("decoder", NextGeneModel(config))
    vocabulary.save("decoder/vocabulary.json")
    sg.tl.embed(adata, model, pooling="mean", genes=True)
    sg.tl.network(adata, model, score="contextual")
    sg.tl.perturb(adata, model, **STATES, max_cells=12)
    sg.tl.rank_shifts(adata, min_cells=2)
    adata.write_h5ad("analysed.h5ad")
    Path("sets.gmt").write_text("S\t\tG1\tG2\tG3\tG4\tG5\n")
    a, b = np.triu_indices(12, 1)
    pd.DataFrame({"source": adata.var_names[a], "target": adata.var_names[b]})[::2].to_csv("truth.csv", index=False)
    return "analysed.h5ad"


def content(path: str) -> dict[str, np.ndarray]:
    """All arrays of a file."""
    arrays = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, part: arrays.update({name: part[()]} if isinstance(part, h5py.Dataset) else {}))
    return arrays


def test_commands_write_what_functions_write(run, analysed) -> None:
    before = content(analysed).keys()
    for name, (flags, options) in WRITERS.items():
        table = ["--table", "table.csv", "--overwrite"] if name in TABLES else []
        ran = run(name.replace("_", "-"), analysed, f"{name}.h5ad", *flags, *table)
        assert ran.status == 0, ran.err
        ours = ad.read_h5ad(analysed)
        truth = {"truth": pd.read_csv("truth.csv")} if name == "evaluate_network" else {}
        getattr(sg.tl, name)(ours, **truth, **options)
        ours.write_h5ad("ours.h5ad")
        written, expected = content(f"{name}.h5ad"), content("ours.h5ad")
        assert written.keys() == expected.keys() != before
        for slot, values in expected.items():
            np.testing.assert_array_equal(written[slot], values, err_msg=f"{name}: {slot}")
        if name in TABLES:
            key = {"compare_embeddings": "embedding_scores", "evaluate_shifts": "shift_evaluation"}.get(
                name, "network_evaluation"
            )
            expected = getattr(sg.get, TABLES[name])(ours, key=key)
            np.testing.assert_allclose(
                pd.read_csv("table.csv")[expected.columns].to_numpy(float), expected.to_numpy(float)
            )
