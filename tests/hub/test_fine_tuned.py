"""A published classifier by its name: an old ``.bin`` file, and a config without a published hash."""

from __future__ import annotations

import io
import json
import os
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import scgeneformer as sg
from scgeneformer.hub._cache import fetch
from scgeneformer.hub._registry import GENERATIONS, MODELS, Model, RemoteFile

if TYPE_CHECKING:
    from pathlib import Path

    from scgeneformer.tokens import Vocabulary

NAME, FOLDER = "T-1_CellClassifier", "fine_tuned_models/T-1_CellClassifier_220224"
SHAPE = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 16,
    "hidden_act": "relu",
    "pad_token_id": 0,
    "num_labels": 3,
}


def as_bin(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.fixture
def theirs(tiny_vocabulary: Vocabulary) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(vocab_size=len(tiny_vocabulary), **SHAPE)).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture
def publish(server: Any, online: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put weights and config on the server, and an entry with the hash of the weights into the registry."""

    def put(weights: Any, config: dict[str, Any]) -> None:
        server.files[f"{FOLDER}/pytorch_model.bin"] = as_bin(weights)
        server.files[f"{FOLDER}/config.json"] = json.dumps(config).encode()
        files = RemoteFile(f"{FOLDER}/config.json"), server.remote(f"{FOLDER}/pytorch_model.bin")
        about = {"licence": "none", "description": "for tests", "classifier": "CellClassifier"}
        model = Model(NAME, "T", "BERT encoder", 2, 8, 1000, *files, **about)
        monkeypatch.setitem(MODELS, NAME, model)

    return put


@pytest.fixture
def published(publish: Any, theirs: Any) -> str:
    old = {"bert.embeddings.position_ids": torch.arange(16)[None]}  # what transformers 4.6 wrote besides
    publish(theirs.state_dict() | old, json.loads(theirs.config.to_json_string()))
    return NAME


@pytest.fixture
def cells(tiny_vocabulary: Vocabulary) -> ad.AnnData:
    counts = np.random.default_rng(0).poisson(2, (12, 7)).astype(np.float32)
    adata = ad.AnnData(counts, var=pd.DataFrame(index=tiny_vocabulary.ids[4:]))
    adata.obs["disease"] = ["nf", "dcm"] * 6
    sg.pp.tokenize(adata, tiny_vocabulary)
    return adata


def test_its_labels_are_those_of_transformers(published: str, theirs: Any, cells: ad.AnnData) -> None:
    with pytest.warns(UserWarning, match=r"config\.json is not known.* was pinned in config\.json\.sha256"):
        sg.tl.annotate(cells, published)
    tokens = torch.from_numpy(cells.obsm["geneformer_tokens"].astype(np.int64))
    with torch.no_grad():
        expected = theirs(input_ids=tokens, attention_mask=(tokens != 0).long()).logits.softmax(1).numpy()
    np.testing.assert_allclose(cells.obsm["label_predicted_proba"], expected, atol=1e-6)
    assert cells.obsm["label_predicted_proba"].columns.tolist() == ["LABEL_0", "LABEL_1", "LABEL_2"]


@pytest.mark.filterwarnings("ignore:The official sha256")
def test_its_encoder_is_perturbed(published: str, theirs: Any, cells: ad.AnnData) -> None:
    sg.tl.perturb(cells, published, groupby="disease", source="dcm", target="nf", pooling="cls", emb_layer=0)
    assert cells.uns["shift"]["params"]["model"] == published
    assert cells.uns["shift"]["params"]["weights_sha256"] == MODELS[published].weights.sha256
    sg.tl.embed(cells, published, pooling="cls", emb_layer=0)
    tokens = torch.from_numpy(cells.obsm["geneformer_tokens"].astype(np.int64))
    with torch.no_grad():
        states = theirs.bert(input_ids=tokens, attention_mask=(tokens != 0).long()).last_hidden_state[:, 0]
    np.testing.assert_allclose(cells.obsm["X_geneformer"], states.numpy(), atol=1e-5)


def test_the_first_config_is_pinned_and_another_refused(server: Any, published: str) -> None:
    with pytest.warns(UserWarning, match="pinned"):
        folder = sg.hub.load(published).folder
    original = (folder / "config.json").read_bytes()
    server.requests.clear()
    sg.hub.load(published)  # nothing is said or asked again
    assert server.requests == []
    server.files[f"{FOLDER}/config.json"] = original.replace(b"LABEL_0", b"another")
    (folder / "config.json").write_bytes(original + b" ")
    with pytest.warns(UserWarning, match="was altered"), pytest.raises(ValueError, match=r"pinned .*remove .*sha256"):
        sg.hub.load(published)
    assert not (folder / "config.json").exists()
    server.files[f"{FOLDER}/config.json"] = original
    assert sg.hub.load(published).folder == folder


def test_a_cache_that_was_copied_is_pinned_where_it_is(server: Any, online: Path, published: str) -> None:
    file = MODELS[published].config
    path = sg.settings.cache_dir / file.path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"{}")
    with pytest.warns(UserWarning, match="pinned"), sg.settings.override(offline=True):
        assert fetch(file) == path
    (path.parent / "config.json.sha256").write_text("nonsense")
    with pytest.raises(ValueError, match="does not hold the sha256"):
        fetch(file)


@pytest.mark.parametrize(("plan", "error"), [(["quiet"], ValueError), ([404], FileNotFoundError)])
def test_of_unknown_size_it_takes_only_what_the_server_announces(
    server: Any, published: str, plan: list[Any], error: type[Exception]
) -> None:
    server.plan = plan
    with pytest.raises(error):
        fetch(MODELS[published].config)
    server.files[f"{FOLDER}/config.json"] = b"x" * (2**20 + 1)
    with pytest.raises(ValueError, match="at most 1,048,576 bytes are accepted"):
        fetch(MODELS[published].config)


@pytest.mark.filterwarnings("ignore:The official sha256")
def test_a_pickle_that_would_run_code_is_refused(publish: Any, theirs: Any, cells: ad.AnnData, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (os.mkdir, (str(tmp_path / "harm"),))

    publish({"classifier.weight": Evil()}, json.loads(theirs.config.to_json_string()))
    before = set(cells.obs)
    for call in (sg.tl.annotate, sg.tl.embed):
        with pytest.raises(ValueError, match=r"pytorch_model\.bin was refused"):
            call(cells, NAME)
    assert not (tmp_path / "harm").exists()
    assert set(cells.obs) == before


def test_of_another_kind_nothing_is_downloaded(server: Any, published: str, tiny_model: str, cells: ad.AnnData) -> None:
    for name, call, message in (
        (tiny_model, sg.tl.annotate, "is a pretrained model, not a CellClassifier"),
        (published, sg.tl.classify_genes, "is a CellClassifier, not a GeneClassifier"),
    ):
        with pytest.raises(TypeError, match=message):
            call(cells, name)
    assert server.requests == []


def test_the_published_one_is_listed() -> None:
    row = sg.hub.available().loc["V1-10M_CellClassifier_cardiomyopathies"]
    assert (row["generation"], row["layers"], row["width"]) == ("V1", 6, 256)
    assert row["source"].startswith("ctheodoris/Geneformer/fine_tuned_models/")
    n_tokens, max_length = GENERATIONS["V1"].n_tokens, GENERATIONS["V1"].max_length
    shape = sg.nn.EncoderConfig(n_tokens, 6, 256, n_heads=4, feed_forward=512, max_length=max_length)
    with torch.device("meta"):
        network = sg.nn.CellClassifier(shape, n_outputs=3, head="bert")
    assert row["parameters"] == sum(parameter.numel() for parameter in network.parameters())
