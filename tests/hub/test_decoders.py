"""Decoders in folders, and the dictionaries beside them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from scgeneformer import hub, nn

if TYPE_CHECKING:
    from pathlib import Path

    from scgeneformer.tokens import Vocabulary


def save(folder: Path, n_tokens: int, **special: int) -> None:
    config = nn.LlamaConfig(
        n_tokens, 1, 8, n_heads=2, n_kv_heads=1, head_width=4, feed_forward=12, max_length=16, **special
    )
    nn.save_checkpoint(folder, nn.NextGeneModel(config))


def dictionary(vocabulary: Vocabulary, *further: str) -> dict[str, int]:
    names = ["<bos>" if name == "<cls>" else name for name in vocabulary.ids.tolist()]
    return {name: token for token, name in enumerate([*names, *further])}


def test_a_folder_is_loaded(tmp_path: Path, tiny_vocabulary: Vocabulary) -> None:
    save(tmp_path, 11)
    with pytest.raises(ValueError, match="11 tokens but no vocabulary"):
        hub.load(tmp_path)
    found = hub.load(tmp_path, vocabulary=tiny_vocabulary)
    assert found.encoder.causal
    assert found.next_gene_model().head.weight.shape == (11, 8)
    with pytest.raises(TypeError, match="not a model with a masked-gene head"):
        found.masked_gene_model()
    live = hub.Pretrained("live", tiny_vocabulary, model=found.next_gene_model())
    assert live.next_gene_model() is live.model
    with pytest.raises(TypeError, match="'bare' is of class Llama and has no scores of the next gene"):
        hub.Pretrained("bare", tiny_vocabulary, model=found.encoder).next_gene_model()


def test_the_official_vocabulary_by_size(tmp_path: Path, official: None) -> None:
    config = nn.LlamaConfig(
        20_275, 1, 4, n_heads=1, n_kv_heads=1, head_width=4, feed_forward=4, max_length=4096, pooling="eos"
    )
    nn.save_checkpoint(tmp_path, nn.NextGeneModel(config))
    found = hub.load(tmp_path)
    assert found.vocabulary == hub.vocabulary("MaxToki-217M") == hub.vocabulary("V2")
    assert found.encoder.config == config


@pytest.mark.parametrize("name", ["bos_id", "eos_id"])
def test_special_tokens_of_another_vocabulary(tmp_path: Path, tiny_vocabulary: Vocabulary, name: str) -> None:
    save(tmp_path, 11, **{name: 10})
    with pytest.raises(ValueError, match=f"{name[:3]}_token_id=10, but it is"):
        hub.load(tmp_path, vocabulary=tiny_vocabulary)


@pytest.mark.parametrize(
    "further", [["-1", "0", "1", "<boq>", "<eoq>"], ["<boq>", "<eoq>", "-1", "0", "1"]], ids=["published", "generator"]
)
def test_tokens_of_time_follow_those_of_genes(tmp_path: Path, tiny_vocabulary: Vocabulary, further: list[str]) -> None:
    save(tmp_path, 16)
    (tmp_path / "token_dictionary.json").write_text(json.dumps(dictionary(tiny_vocabulary, *further)))
    found = hub.load(tmp_path, vocabulary=tiny_vocabulary)
    assert found.vocabulary == tiny_vocabulary
    assert found.encoder.config.vocab_size == 16


def test_folders_of_another_backbone_are_named(tmp_path: Path, tiny_vocabulary: Vocabulary, folder: Path) -> None:
    save(tmp_path, 11)
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(KeyError, match=r"no weights 'model\.embed.*Llama needs, but has 'bert\..*of another model"):
        _ = hub.load(tmp_path, vocabulary=tiny_vocabulary).encoder
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "vocab_size": 11, "n_positions": 16}))
    for load in (hub.load, hub.vocabulary):
        with pytest.raises(ValueError, match=r"a model of type 'gpt2'.*\('bert', 'llama', 'cellfm'\) can be read"):
            load(tmp_path)


def test_damaged_dictionaries_are_refused(tmp_path: Path, tiny_vocabulary: Vocabulary) -> None:
    save(tmp_path, 16)
    good = dictionary(tiny_vocabulary, "-1", "0", "1", "<boq>", "<eoq>")
    shifted = {name: token - 1 for name, token in good.items() if token >= 3} | {"<pad>": 0, "<mask>": 1, "<bos>": 15}
    gene, last = tiny_vocabulary.ids[4], tiny_vocabulary.ids[-1]
    for bad, message in (
        (shifted, "extracted incorrectly: '<bos>' is token 15, not 2"),
        (good | {gene: good["0"], "0": good[gene]}, "genes after tokens of time"),
        (good | {gene: good["0"]}, "has tokens twice"),
        (good | {gene: "5"}, "lacks tokens"),
        (good | {gene: good[last], last: good[gene]}, "its genes or their numbers differ"),
        (dictionary(tiny_vocabulary, "0"), "12 tokens, but the model beside it has 16"),
        ([1, 2], "not a JSON dictionary"),
    ):
        (tmp_path / "token_dictionary.json").write_text(json.dumps(bad))
        with pytest.raises(ValueError, match=message):
            hub.load(tmp_path, vocabulary=tiny_vocabulary)
    (tmp_path / "token_dictionary.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        hub.load(tmp_path, vocabulary=tiny_vocabulary)
