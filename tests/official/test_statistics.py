"""Official tables under our names are what `tl.rank_shifts(compat="official")` computes, and are written as they were."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import scgeneformer as sg

if TYPE_CHECKING:
    from pathlib import Path

MODES = {"v1": "cell", "v2": "cls"}
GENE_TABLES = ("goal_state_delete_all", "goal_state_overexpress_all", "vs_null_delete", "mixture_delete")
GENE_TABLES += ("mixture_overexpress", "anchorB2M_effect_delete", "anchorB2M_effect_overexpress")


@pytest.fixture
def recorded(shared: Path, tmp_path: Path):
    """Path of a recorded table, unpacked."""

    def unpack(name: str) -> Path:
        path = tmp_path / f"{name}.csv"
        path.write_bytes(gzip.decompress((shared / f"conformance/stats/{name}.csv.gz").read_bytes()))
        return path

    return unpack


def shifts_of(shared: Path, name: str, *, goal: bool) -> AnnData:
    """Recorded shifts as `tl.perturb` stores them."""
    frame = pd.read_parquet(shared / f"conformance/perturb/{name}.parquet")
    cells, genes = pd.Index(frame["cell"].unique()), pd.Index(frame["perturbed"].unique())
    shape = len(cells), len(genes)
    adata = AnnData(obs=pd.DataFrame(index=cells), var=pd.DataFrame({"token_id": genes.astype(int)}, index=genes))
    for state, part in frame.groupby("state"):
        at = cells.get_indexer(part["cell"]), genes.get_indexer(part["perturbed"])
        layer = "shift" if state in ("", "Mono") else f"shift_{state}"
        values = part["value"].to_numpy()
        adata.layers[layer] = sparse.coo_matrix((values, at), shape).tocsr()
    states = {"target": "Mono", "source": "T", "others": ["B"]} if goal else {}
    adata.uns["shift"] = {"params": {"kind": "delete"} | states}
    return adata


@pytest.mark.parametrize("kind", ["delete", "overexpress"])
@pytest.mark.parametrize("model", MODES)
@pytest.mark.parametrize("mode", ["goal_state", "mixture"])
def test_numbers_and_order_are_those_of_rank_shifts(shared, official, recorded, tmp_path, mode, model, kind):
    goal = mode == "goal_state"
    name = f"{model}-tiny_all_{kind}_{MODES[model]}_{'states' if goal else 'short6'}"
    ours = shifts_of(shared, name, goal=goal)
    sg.tl.rank_shifts(ours, test="rank_sum" if goal else "mixture", compat="official")
    path = recorded(f"{model}-tiny_goal_state_{kind}_all" if goal else f"{model}-tiny_mixture_{kind}")
    theirs = sg.read_official(path)
    assert "source" not in theirs.uns["shift"]["params"]  # the state, which the file does not name
    table = ours.varm["shift"].loc[theirs.var["token_id"].astype(str)]
    columns = [*theirs.varm["shift"]]
    assert {"n_cells", "effect"} < set(columns)
    assert ("effect_B" in columns) is ("pvals_adj_B" in columns) is goal
    np.testing.assert_allclose(theirs.varm["shift"], table[columns], rtol=1e-9, atol=1e-15)
    vocabulary = official(model.upper())
    assert theirs.var_names.tolist() == vocabulary.ids[theirs.var["token_id"]].tolist()

    a, b = sg.get.shifts(theirs), sg.get.shifts(ours)
    assert a["n_cells"].sum() == b["n_cells"].sum()
    np.testing.assert_allclose(a["effect"], b["effect"], rtol=1e-9, atol=1e-15)
    sg.export_official(ours, tmp_path / "ours.csv", vocabulary, kind="statistics")
    exported, original = (pd.read_csv(p, index_col=0).sort_values("Gene") for p in (tmp_path / "ours.csv", path))
    pd.testing.assert_frame_equal(exported, original, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", GENE_TABLES)
@pytest.mark.parametrize("model", MODES)
def test_tables_of_genes_are_written_as_they_were(recorded, tmp_path, model, name):
    path = recorded(f"{model}-tiny_{name}")
    adata = sg.read_official(path)
    adata.write_h5ad(tmp_path / "a.h5ad")
    sg.export_official(adata, tmp_path / "again.csv", kind="statistics")
    original, again = (
        pd.read_csv(p, index_col=0, float_precision="round_trip") for p in (path, tmp_path / "again.csv")
    )
    again = again.set_index("Gene").loc[original["Gene"]].reset_index()[list(original)]  # equal rows have no order
    pd.testing.assert_frame_equal(again, original.reset_index(drop=True), rtol=1e-14, atol=1e-15)
    exact = [column for column in original if "avg_shift" not in column and "percent" not in column]
    pd.testing.assert_frame_equal(again[exact], original[exact].reset_index(drop=True), check_exact=True)
    first = "Impact_component" if "Impact_component" in original else "Sig"
    assert (pd.read_csv(tmp_path / "again.csv")[first].diff().dropna() <= 0).all()


@pytest.mark.parametrize("model", MODES)
def test_other_tables_are_data_frames(recorded, model):
    affected = sg.read_official(recorded(f"{model}-tiny_geneshifts_B2M_delete"))
    assert list(affected) == ["perturbed", "names", "symbol", "n_cells", "cosine", "sd"]
    assert (affected["perturbed"] == "ENSG00000166710").all()
    assert affected.loc[0, ["names", "n_cells"]].tolist() == ["", 100]  # the cell itself
    long = sg.read_official(recorded(f"{model}-tiny_aggregate_B2M_delete"))
    np.testing.assert_allclose(long["cosine"].mean(), affected.loc[0, "cosine"])
    assert set(long["symbol"]) == {"B2M"}
    listed = sg.read_official(recorded(f"{model}-tiny_goal_state_delete_three"))
    assert list(listed) == ["effect", "effect_B"]
    assert listed.shape == (1, 2)


GOAL = "Gene,Gene_name,Ensembl_ID,Shift_to_goal_end,Goal_end_vs_random_pval,Goal_end_FDR,N_Detections,Sig"
WRONG = {
    "another table": ("a,b\n0,1\n", "not a table of official statistics"),
    "lacks columns": ("Gene,Shift_to_goal_end\n0,5,0.1\n", "lacks the columns"),
    "text for numbers": (f"{GOAL}\n0,5,A,ENSG1,x,0.1,0.1,3,0\n", "'Shift_to_goal_end' .* must hold numbers"),
    "genes twice": (f"{GOAL}\n0,5,A,ENSG1,.1,.1,.1,3,0\n1,6,A,ENSG1,.1,.1,.1,3,0\n", "must name each gene once"),
    "gene missing": (f"{GOAL}\n0,5,A,,.1,.1,.1,3,0\n", "must name each gene once"),
    "half a cell": (f"{GOAL}\n0,5,A,ENSG1,.1,.1,.1,3.5,0\n", "integers"),
    "negative token": (f"{GOAL}\n0,-5,A,ENSG1,.1,.1,.1,3,0\n", "integers"),
    "nothing": ("", "damaged"),
    "bytes": (b"\xff\xfe\x00\x01,\n\x80", "damaged|not a table"),
    "ragged": (f"{GOAL}\n0,5\n1,2,3,4,5,6,7,8,9,10,11,12\n", "damaged"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_tables_are_refused_by_the_path(tmp_path, what):
    content, error = WRONG[what]
    path = tmp_path / "t.csv"
    text = (
        content if isinstance(content, bytes) else content.replace("Gene,", ",Gene,", 1).replace("a,b", ",a,b").encode()
    )
    path.write_bytes(text)
    with pytest.raises(ValueError, match=error) as raised:
        sg.read_official(path, kind="statistics")
    assert str(path) in str(raised.value)


def test_rankings_without_an_official_table_are_refused(recorded, tmp_path):
    adata = sg.read_official(recorded("v1-tiny_goal_state_delete_all"))
    path = tmp_path / "new.csv"
    with pytest.raises(ValueError, match="must end in '.dataset'"):
        sg.export_official(adata, path)
    with pytest.raises(KeyError, match="No ranking"):
        sg.export_official(adata, path, kind="statistics", key="other")
    renamed = adata.copy()
    renamed.var_names = [f"gene{i}" for i in range(adata.n_vars)]
    with pytest.raises(ValueError, match="not all Ensembl ids"):
        sg.export_official(renamed, path, kind="statistics")
    for name, value in {"centered": True, "test": "donors"}.items():
        changed = adata.copy()
        changed.uns["shift"]["rank"][name] = value
        with pytest.raises(ValueError, match="has no official table"):
            sg.export_official(changed, path, kind="statistics")
    del adata.var["token_id"]
    with pytest.raises(ValueError, match="No tokens of the ranked genes"):
        sg.export_official(adata, path, kind="statistics")
    assert not path.exists()


def test_plots_say_what_official_tables_lack(official, recorded):
    official("V1")
    theirs = sg.read_official(recorded("v1-tiny_goal_state_delete_all"))
    for kind in ("volcano", "rank"):
        with pytest.raises(ValueError, match="has p-values but no scores"):
            sg.pl.shift(theirs, kind=kind, show=False)
