"""What is the latent model of states worth: does it recover sparse offsets, and does it transfer a state to other donors?

    python benchmarks/judge_state_shift.py simulated [--seeds 5] [--out TABLE.md]
    python benchmarks/judge_state_shift.py real [--data ../shared/data] [--seeds 3] [--out TABLE.md]

"simulated": 40 data sets of 50 cells, with the same types in all, and offsets in one or two of five dimensions in which types do not differ (ten
dimensions in all), mixed into an embedding (64 dimensions, linear) or counts (200 genes, negative binomial). F1 of the support of the offsets, for
the best assignment of dimensions. Baselines: the means of data sets along ten principal components of unit variance, cut where F1 is highest or at the true number, and
the same number of random entries.

"real": the model is trained on blood cells of nine data sets (sorted and unsorted PBMC, six donors of a COVID-19 study) and of one of two donors of
Kang et al., control and interferon-beta together, with the public interface and its defaults (100 epochs). The other donor is a zero-shot query. Both donors
take their turn:

- interferon: AUROC of the states of the query by its position on the axis between the two states of the training donor, both donors pooled,
  95 % by bootstrap over cells within donors (two donors cannot be resampled), and the difference from the embedding centred by donor
- types: balanced accuracy on the query of a logistic regression trained on the training donor (five types)
- data sets: balanced accuracy, five folds over cells, of a logistic regression that predicts the data set of a cell among six resting ones

Trained models: mean over seeds.
"""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import scvi
from scipy.optimize import linear_sum_assignment
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import scgeneformer as sg

DEFAULT_DATA = Path(os.environ.get("SCGENEFORMER_SHARED") or Path(__file__).parents[2] / "shared") / "data"
EMBEDDING, DATASET = "X_geneformer", "dataset"
EPOCHS = {"simulated": 150, "real": 100}
PER_SET = 300  # cells per data set


def simulated(kind: str, seed: int) -> tuple[ad.AnnData, np.ndarray]:
    """Cells of data sets, the first without offset, and the support of the offsets, (40, 10)."""
    rng = np.random.default_rng(seed)
    n_sets, n_cells, n_state, n_dims, n_types = 40, 50, 5, 10, 4
    n_features = 64 if kind == "embedding" else 200
    support = np.zeros((n_sets, n_dims), bool)
    for row in support[1:]:
        row[rng.choice(n_state, rng.integers(1, 3), replace=False)] = True
    offsets = support * rng.choice([-1, 1], support.shape) * rng.uniform(1, 2, support.shape)
    of_set, of_type = np.repeat(np.arange(n_sets), n_cells), rng.integers(n_types, size=n_sets * n_cells)
    types = np.concatenate([np.zeros((n_types, n_state)), rng.normal(size=(n_types, n_dims - n_state))], axis=1)
    latent = types[of_type] + 0.5 * rng.normal(size=(len(of_set), n_dims)) + offsets[of_set]
    mixed = latent @ (rng.normal(size=(n_dims, n_features)) * (rng.random((n_dims, n_features)) < 0.3))
    obs = pd.DataFrame(
        {DATASET: pd.Categorical([f"{i:02d}" for i in of_set])}, index=[str(i) for i in range(len(of_set))]
    )
    if kind == "embedding":
        noise = 0.5 * rng.normal(size=mixed.shape)
        return ad.AnnData(obs=obs, obsm={EMBEDDING: (mixed + noise).astype(np.float32)}), support
    rate = np.exp(rng.normal(size=n_features) + 0.5 * mixed)
    rate *= rng.lognormal(np.log(1000), 0.3, size=(len(rate), 1)) / rate.sum(1, keepdims=True)
    return ad.AnnData(rng.poisson(rng.gamma(5, rate / 5)).astype(np.float32), obs=obs), support


def f1(found: np.ndarray, support: np.ndarray) -> float:
    """F1 of a support for the best assignment of its dimensions to the true ones."""
    shared = found.T.astype(int) @ support
    return 2 * shared[linear_sum_assignment(-shared)].sum() / (found.sum() + support.sum())


def shift_model(
    cells: ad.AnnData, use_rep: str | None, epochs: int, seed: int, **arguments: object
) -> sg.model.StateShift:
    """A model trained with data sets as labels."""
    sg.model.StateShift.setup_anndata(cells, labels_key=DATASET, use_rep=use_rep)
    model = sg.model.StateShift(cells, rng=seed, **arguments)
    model.train(epochs, rng=seed, accelerator="cpu")
    return model


def judge_simulated(seeds: int) -> pd.DataFrame:
    """F1 by kind of data, mean and standard deviation over seeds."""
    scores = []
    for kind in ("embedding", "counts"):
        for seed in range(seeds):
            cells, support = simulated(kind, seed)
            model = shift_model(
                cells, EMBEDDING if kind == "embedding" else None, EPOCHS["simulated"], seed, control="00"
            )
            table = model.state_dimensions().pivot(index="label", columns="dimension", values="offset")
            found = table.to_numpy() != 0
            points = (
                cells.obsm[EMBEDDING]
                if kind == "embedding"
                else sc.pp.log1p(sc.pp.normalize_total(cells, copy=True), copy=True).X
            )
            components = StandardScaler().fit_transform(PCA(found.shape[1], random_state=0).fit_transform(points))
            means = np.abs(pd.DataFrame(components).groupby(cells.obs[DATASET].to_numpy()).mean().to_numpy())
            rng = np.random.default_rng(seed)
            scores.append(
                {
                    "data": kind,
                    "model": f1(found, support),
                    "model, entries": found.sum(),
                    "true entries": support.sum(),
                    "PCA, best cut": max(f1(means > cut, support) for cut in np.unique(means)[:-1]),
                    "PCA, true number": f1(means >= np.sort(means.ravel())[-support.sum()], support),
                    "random": np.mean(
                        [f1(rng.permuted(found.ravel()).reshape(found.shape), support) for _ in range(50)]
                    ),
                }
            )
            print(scores[-1], flush=True)
    by_kind = pd.DataFrame(scores).groupby("data", sort=False)
    mean, sd = by_kind.mean(), by_kind.std()
    return mean.round(2).astype(str) + " ± " + sd.round(2).astype(str)


def blood(data: Path) -> ad.AnnData:
    """Blood cells of several studies, of patients, and of two donors with and without interferon; counts of shared genes, and the embedding."""
    rng = np.random.default_rng(0)
    kang = sc.read_h5ad(data / "kang_ifnb_muscat" / "kang_ifnb_muscat.h5ad")
    kang.obs[DATASET] = "kang " + kang.obs["sample_id"].astype(str).str[-3:]
    kang.obs = kang.obs.rename(columns={"cluster_id": "type", "group_id": "state"})
    sets = [kang]
    for name, path in (
        ("zheng", "pbmc_facs_zheng/pbmc_facs_train.h5ad"),
        ("pbmc 3k", "pbmc3k_clustifyr/pbmc3k.h5ad"),
        ("pbmc 1k", "pbmc_1k_v2/pbmc_1k_v2.h5ad"),
    ):
        cells = sc.read_h5ad(data / path)
        cells.obs = pd.DataFrame({DATASET: name, "state": "ctrl"}, index=cells.obs_names)
        sets.append(cells)
    for path in sorted((data / "covid_pbmc_gse149689").glob("*.h5ad")):
        cells = sc.read_h5ad(path)
        resting = cells.obs["disease"].astype(str).str.lower().str.contains("normal")
        cells.obs = pd.DataFrame(
            {DATASET: "covid " + cells.obs["donor"].astype(str), "state": np.where(resting, "ctrl", "covid")},
            index=cells.obs_names,
        )
        sets.append(cells)
    chosen = []
    for cells in sets:
        of_set = cells.obs.groupby(DATASET, observed=True).indices.values()
        limit = cells.n_obs if cells is kang else PER_SET
        rows = np.sort(np.concatenate([rng.permutation(rows)[:limit] for rows in of_set]))
        part = cells[rows].copy()
        sg.pp.tokenize(part, "default")
        sg.tl.embed(part)
        part.var_names = part.var["ensembl_id"].astype(str)
        keep = ~part.var_names.duplicated() & (part.var_names != "nan")
        part = part[:, keep]
        chosen.append(
            ad.AnnData(
                part.X.astype(np.float32),
                obs=part.obs[[c for c in (DATASET, "state", "type") if c in part.obs]],
                var=pd.DataFrame(index=part.var_names),
                obsm={EMBEDDING: part.obsm[EMBEDDING]},
            )
        )
    joined = ad.concat(chosen, join="inner", index_unique="-", keys=[str(i) for i in range(len(chosen))])
    joined.obs["type"] = pd.concat(
        [part.obs.get("type", pd.Series(np.nan, part.obs_names)).astype(object) for part in chosen]
    ).to_numpy()
    print(joined.obs.groupby([DATASET, "state"], observed=True).size(), joined.n_vars, "genes", flush=True)
    return joined


def trained_representations(train: ad.AnnData, cells: ad.AnnData, seed: int) -> dict[str, np.ndarray]:
    """Representations of all `cells` by models trained on `train`."""
    points = {}
    for name, use_rep in (("StateShift on counts", None), ("StateShift on the embedding", EMBEDDING)):
        model = shift_model(train.copy(), use_rep, EPOCHS["real"], seed)
        points |= {
            f"{name}, {kind}": model.get_latent_representation(cells, kind=kind) for kind in ("base", "state", "type")
        }
        print(seed, name, {key: value.shape[1] for key, value in points.items() if key.startswith(name)}, flush=True)
    scvi.settings.seed = seed
    reference = train.copy()
    scvi.model.SCVI.setup_anndata(reference, batch_key=DATASET)
    model = scvi.model.SCVI(reference)
    model.train(EPOCHS["real"], accelerator="cpu", enable_progress_bar=False)
    query = cells.copy()
    query.obs[DATASET] = pd.Categorical.from_codes(
        np.zeros(query.n_obs, int), [train.obs[DATASET].iloc[0]]
    )  # the encoder does not read it
    return points | {"scVI": model.get_latent_representation(query)}


def judge_fold(cells: ad.AnnData, points: np.ndarray, trains: np.ndarray, query: np.ndarray) -> dict[str, object]:
    """Positions of the query on the axis of the training donor, and the two accuracies."""
    if not points.shape[1]:
        return {"place": np.zeros(query.sum()), "types": np.nan, "data sets": np.nan}
    state, types, sets = (cells.obs[name].astype(str).to_numpy() for name in ("state", "type", DATASET))
    start, end = (points[trains & (state == name)].mean(0) for name in ("ctrl", "stim"))
    axis = end - start
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    predicted = classifier.fit(points[trains], types[trains]).predict(points[query])
    resting = np.flatnonzero((state == "ctrl") & ~query)
    of_set = cross_val_predict(classifier, points[resting], sets[resting], cv=5)
    return {
        "place": (points[query] - start) @ axis / (axis @ axis),
        "types": balanced_accuracy_score(types[query], predicted),
        "data sets": balanced_accuracy_score(sets[resting], of_set),
    }


def judge_real(data: Path, seeds: int) -> pd.DataFrame:
    """All three scores of all representations."""
    cells = blood(data)
    sets, state = cells.obs[DATASET].astype(str), cells.obs["state"].astype(str).to_numpy()
    normal = sc.pp.log1p(sc.pp.normalize_total(cells, target_sum=1e4, copy=True), copy=True).X.toarray()
    centred = (
        cells.obsm[EMBEDDING]
        - pd.DataFrame(cells.obsm[EMBEDDING]).groupby(sets.to_numpy()).transform("mean").to_numpy()
    )
    untrained = {"embedding": cells.obsm[EMBEDDING], "embedding, centred": centred, "expression": normal}
    donors = ("kang 101", "kang 107")
    results: dict[str, list[list[dict[str, object]]]] = {}  # by representation, run and donor
    for seed in range(seeds):
        runs: dict[str, list[dict[str, object]]] = {}
        for donor in donors:
            query, trains = (sets == donor).to_numpy(), sets.isin(set(donors) - {donor}).to_numpy()
            points = trained_representations(cells[~query], cells, seed) | (untrained if seed == 0 else {})
            for name, values in points.items():
                runs.setdefault(name, []).append(judge_fold(cells, values, trains, query))
        for name, folds in runs.items():
            results.setdefault(name, []).append(folds)
        truth = [state[(sets == donor).to_numpy()] == "stim" for donor in donors]
        table = real_table(results, truth)
        print(f"{seed + 1} seeds\n{table.to_markdown()}", flush=True)
    return table


def real_table(results: dict[str, list[list[dict[str, object]]]], truth: list[np.ndarray]) -> pd.DataFrame:
    """Means over runs with intervals; `truth` is whether cells of each donor are stimulated."""
    pooled = np.concatenate(truth)

    def auroc(name: str, sample: np.ndarray) -> float:
        places = [np.concatenate([fold["place"] for fold in folds]) for folds in results[name]]
        return np.mean([roc_auc_score(pooled[sample], values[sample]) for values in places])

    rng, n_first = np.random.default_rng(0), len(truth[0])
    samples = [
        np.concatenate([rng.integers(n_first, size=n_first), n_first + rng.integers(len(truth[1]), size=len(truth[1]))])
        for _ in range(500)
    ]
    everyone = np.arange(len(pooled))
    order = sorted(results, key=lambda name: not name.startswith(("embedding", "expression")))
    rows, reference = [], [auroc("embedding, centred", sample) for sample in samples]
    for name in order:
        drawn = np.array([auroc(name, sample) for sample in samples])
        low, high = np.quantile(drawn, [0.025, 0.975])
        less, more = np.quantile(drawn - reference, [0.025, 0.975])
        difference = auroc(name, everyone) - auroc("embedding, centred", everyone)
        mean = {
            key: np.mean([fold[key] for folds in results[name] for fold in folds]) for key in ("types", "data sets")
        }
        rows.append(
            {
                "representation": name,
                "interferon, AUROC": f"{auroc(name, everyone):.3f} ({low:.3f}-{high:.3f})",
                "minus centred embedding": f"{difference:+.3f} ({less:+.3f} to {more:+.3f})",
                **{key: f"{value:.2f}" for key, value in mean.items()},
            }
        )
    return pd.DataFrame(rows).set_index("representation")


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("simulated", "real"))
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel("ERROR")
    sg.settings.progress = False
    table = judge_simulated(args.seeds) if args.part == "simulated" else judge_real(args.data, args.seeds)
    text = table.to_markdown() + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
