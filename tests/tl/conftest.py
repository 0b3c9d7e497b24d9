"""Small inputs: realistic counts, their own vocabulary, a small random model in a folder."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scgeneformer as sg


@pytest.fixture
def adata() -> ad.AnnData:
    """40 cells in three states, 30 genes, of which the last two are in no vocabulary."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(1.2, (40, 30)).astype(np.float32)
    var = pd.DataFrame({"symbol": [f"SYM{i}" for i in range(30)]}, index=[f"ENSG{i:011d}" for i in range(30)])
    obs = pd.DataFrame({"state": pd.Categorical(rng.choice(["sick", "well", "odd"], 40))})
    obs.index = [f"cell{i}" for i in range(40)]
    return ad.AnnData(sparse.csr_matrix(counts), obs=obs, var=var)


@pytest.fixture
def vocabulary(adata) -> sg.Vocabulary:
    return sg.Vocabulary.from_adata(adata[:, :28].copy(), name="small", max_length=64, special_tokens=True)


def saved(model, vocabulary, folder):
    """The folder, with the model in it, whose weights are moved from their small start."""
    import torch

    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    sg.nn.save_checkpoint(folder, model)
    vocabulary.save(folder / "vocabulary.json")
    return folder


@pytest.fixture
def folder(vocabulary, tmp_path):
    """A model folder as the hub takes it."""
    import torch

    torch.manual_seed(0)
    encoder = sg.nn.Encoder(
        sg.nn.EncoderConfig(
            vocab_size=len(vocabulary),
            n_layers=3,
            width=16,
            n_heads=2,
            feed_forward=24,
            max_length=vocabulary.max_length,
        )
    )
    return saved(encoder, vocabulary, tmp_path / "model")


@pytest.fixture
def tokenized(adata, folder) -> ad.AnnData:
    sg.pp.tokenize(adata, folder)
    return adata


@pytest.fixture
def llama_folder(vocabulary, tmp_path):
    """The same of a LLaMA decoder with scores of the next gene."""
    import torch

    torch.manual_seed(0)
    model = sg.nn.NextGeneModel(
        sg.nn.LlamaConfig(
            vocab_size=len(vocabulary),
            n_layers=3,
            width=16,
            n_heads=4,
            n_kv_heads=2,
            head_width=4,
            feed_forward=24,
            max_length=vocabulary.max_length,
        )
    )
    return saved(model, vocabulary, tmp_path / "llama")


@pytest.fixture
def value_vocabulary(adata):
    """The same genes for models that read values."""
    ids = np.array(["<pad>", "<mask>", "<cls>", *adata.var_names[:28]])
    symbols = np.array(["", "", "", *adata.var["symbol"][:28]])
    aliases = dict(zip(symbols[3:].tolist(), ids[3:].tolist(), strict=True))
    medians = np.r_[[np.nan] * 3, np.ones(28)]
    return sg.Vocabulary("values", ids, medians, 64, aliases=aliases, symbols=symbols, values=True)


@pytest.fixture
def cellfm_folder(value_vocabulary, tmp_path):
    """A CellFM encoder with tokens for totals."""
    import torch

    torch.manual_seed(0)
    config = sg.nn.CellFMConfig(
        vocab_size=31, n_layers=3, width=16, n_heads=4, n_bins=8, max_length=64, totals=True, dropout=0.0
    )
    return saved(sg.nn.CellFM(config), value_vocabulary, tmp_path / "cellfm")


@pytest.fixture
def check_fine_tuned(tmp_path):
    """Train a classifier on a backbone with the first block frozen, use it in verbs, and read it back."""
    import torch

    def check(adata, folder, embedding, **options):
        quiet = {"accelerator": "cpu", "precision": "32-true", "enable_progress_bar": False, "recipe": "plain"}
        sg.model.CellClassifier.setup_anndata(adata, "state")
        model = sg.model.CellClassifier(adata, folder, freeze=1, **options)
        model.train(max_epochs=1, **quiet)
        before = sg.hub.load(folder).encoder.state_dict()
        frozen = [name for name, value in model.encoder.state_dict().items() if torch.equal(value.cpu(), before[name])]
        assert {name.split(".")[1] for name in frozen if name.startswith("blocks")} == {"0"}
        assert embedding in frozen
        sg.tl.annotate(adata, model, key_added="label")
        assert adata.obs["label"].notna().all()
        sg.tl.perturb(adata, model, ["SYM0"], groupby="state", source="sick", target="well", untrained=False)
        assert adata.layers["shift"].nnz
        model.export(tmp_path / "exported")
        again = sg.model.CellClassifier.from_pretrained(tmp_path / "exported", adata)
        np.testing.assert_array_equal(again.predict(soft=True), model.predict(soft=True))

    return check


@pytest.fixture
def interrupted(monkeypatch):
    """Call a verb and interrupt it after a number of parts."""
    from scgeneformer.engine.perturb import Store

    write = Store.write

    def call(n_parts, verb, *args, **options):
        def stopping(self, part, arrays):
            if part == n_parts:
                raise KeyboardInterrupt
            write(self, part, arrays)

        monkeypatch.setattr(Store, "write", stopping)
        with pytest.raises(KeyboardInterrupt):
            verb(*args, **options)
        monkeypatch.setattr(Store, "write", write)

    return call
