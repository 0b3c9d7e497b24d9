"""The six tasks of the official README run as on the page for its users, on real cells and with the bundled model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import scgeneformer as sg

from .test_pages import NOT_RUN, ROOT, blocks

BUNDLED = {
    '"V2-104M"': '"default"',
    "freeze=6": "freeze=2",
    '"V1-10M", vocabulary': '"V1-10M", n_layers=1, vocabulary',
    '"STAT1", "STAT2", "IRF9"': '"ISG15", "IFI6", "IRF7"',  # which the data have
    "STAT1": "ISG15",
}


@pytest.mark.filterwarnings("ignore")
def test_the_six_tasks_on_interferon_treated_blood_cells(
    shared: Path, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sg.settings, "data", shared / "data")
    cells = sg.datasets.kang_types()
    genes = cells.var_names.isin(["ISG15", "IFI6", "IRF7"]) | (np.arange(cells.n_vars) % 6 == 0)
    cells = cells[cells.obs["cell_type"].isin(["CD14+Mono", "B"]), genes][::9].copy()
    cells.obs["disease"] = cells.obs["condition"].map({"stimulated": "dcm", "control": "nf"}).astype("category")
    cells.obs["donor"] = pd.Categorical([f"donor {i % 8}" for i in np.random.default_rng(0).permutation(cells.n_obs)])
    Path("atlas").mkdir()
    for number in range(2):
        cells.write_h5ad(f"atlas/{number}.h5ad")
    names["sensitive"], names["insensitive"] = list(cells.var_names[:40:2]), list(cells.var_names[1:40:2])

    for source in blocks(ROOT / "docs" / "from_official.md"):
        for published, bundled in BUNDLED.items():
            source = source.replace(published, bundled)
        if not source.startswith(NOT_RUN):
            exec(source, names)

    adata = names["adata"]
    assert {"linear probe", "regression on HVGs", "most frequent class"} < set(sg.get.evaluation(adata).index)
    shifts = sg.get.shifts(adata).set_index("names")
    assert shifts.loc["ISG15", "log2fc"] < -2  # interferon induces it: target minus source
    assert len(sg.get.effects(adata, "ISG15", key="impact")) > 100
    assert set(names["cv"].classes) == {"sensitive", "insensitive"}
    assert {"with_ISG15", "shift_sets"} <= set(adata.uns)
    assert Path("pretrained").is_dir()
