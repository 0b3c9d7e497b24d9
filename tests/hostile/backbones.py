"""Folders of decoders that are damaged or inconsistent, or contain another backbone than they declare."""

from __future__ import annotations

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import scgeneformer as sg

from . import world
from .verdict import Case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

N_FLIPS = 40  # of each file
TIMES = ["-1", "0", "1", "<boq>", "<eoq>"]


@cache
def folder() -> Path:
    """A decoder with the dictionary of a second stage: tokens of time after those of genes."""
    place = Path(tempfile.mkdtemp(prefix="hostile-")) / "decoder"
    shape = {"n_layers": 2, "width": 16, "n_heads": 2, "n_kv_heads": 1, "head_width": 8, "feed_forward": 24}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = sg.nn.LlamaConfig(vocab_size=len(world.vocabulary()) + len(TIMES), max_length=64, **shape)
        sg.nn.save_checkpoint(place, sg.nn.NextGeneModel(config))
    world.vocabulary().save(place / "vocabulary.json")
    _write(place / "token_dictionary.json", dictionary())
    return place


def dictionary() -> dict[str, int]:
    """Tokens of cells, in the order of the vocabulary, then those of time."""
    names = ["<bos>" if name == "<cls>" else name for name in world.vocabulary().ids.tolist()]
    return {name: token for token, name in enumerate([*names, *TIMES])}


def _copy() -> Path:
    return shutil.copytree(folder(), Path(tempfile.mkdtemp(prefix="hostile-")) / "copy")


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def _embedded(place: Path, data: Any) -> Any:
    sg.tl.embed(data, place)
    return data.obsm["X_geneformer"]


def _scored(place: Path, data: Any) -> Any:
    sg.tl.likelihood(data, place)
    return data.obs["geneformer_loglik"]


def _finite(result: Any) -> bool:
    """A name that is not read, or a number for which any value is valid: the result is finite for each cell."""
    return len(result) == world.N_CELLS and bool(np.isfinite(result).all())


def _case(name: str, damage: Callable[[Path], object], call: Any = _embedded, answer: Any = None) -> Case:
    place, data = _copy(), world.tokenized()
    damage(place)
    return Case(f"decoder: {name}", lambda: call(place, data), data, answer)


def cases(rng: np.random.Generator) -> Iterator[Case]:
    """About 230 of them."""
    yield _case("as it is", lambda place: None, answer=_finite)
    yield _case("as it is, its likelihoods", lambda place: None, _scored, answer=_finite)
    yield from _files(rng)
    yield from _configs()
    yield from _weights()
    yield from _dictionaries()
    yield from _of_others()


def _files(rng: np.random.Generator) -> Iterator[Case]:
    def flip(path: Path, first: int, last: int) -> Callable[[Path], object]:
        at, bit = int(rng.integers(first, last)), 1 << int(rng.integers(8))

        def damage(place: Path) -> None:
            content = bytearray((place / path.name).read_bytes())
            content[at] ^= bit
            (place / path.name).write_bytes(bytes(content))

        return damage

    def cut(name: str, size: int) -> Callable[[Path], object]:
        return lambda place: (place / name).write_bytes((place / name).read_bytes()[:size])

    for name in ("config.json", "token_dictionary.json", "model.safetensors"):
        content = (folder() / name).read_bytes()
        last = 8 + int.from_bytes(content[:8], "little") if name == "model.safetensors" else len(content)
        for number in range(N_FLIPS):
            yield _case(f"{name} with a bit changed ({number})", flip(folder() / name, 0, last), answer=_finite)
        for size in (0, 1, 8, len(content) // 2, len(content) - 2):
            yield _case(f"{name} cut at {size}", cut(name, size))
    for name in ("config.json", "model.safetensors"):
        yield _case(f"no {name}", lambda place, name=name: (place / name).unlink())


def _configs() -> Iterator[Case]:
    changes: dict[str, tuple[object, ...]] = {
        "vocab_size": (0, -1, 5, len(world.vocabulary()), 10**9, "x", None),
        "num_hidden_layers": (0, -1, 3, 1.5, "2", None, 10**9),
        "hidden_size": (0, -1, 15, 17, 32, "16", None, 10**9),
        "num_attention_heads": (0, -1, 3, 4, "2", None, 10**9),
        "num_key_value_heads": (0, -1, 2, 3, "1", 10**9),
        "head_dim": (0, -1, 4, 7, "8", 10**9),
        "intermediate_size": (0, -1, 25, "24", None, 10**12),
        "max_position_embeddings": (0, -1, "64", None, 10**9),
        "hidden_act": ("gelu", 3),
        "attention_bias": (True,),
        "tie_word_embeddings": (True,),
        "rope_scaling": ("llama3", {"rope_type": "yarn", "factor": 2.0}, {"rope_type": "llama3"}),
        "rope_theta": ("x", -1.0, 0.0),
        "rms_norm_eps": ("x", -1.0),
        "bos_token_id": (1, 10**9),
        "eos_token_id": (2, -1),
        "model_type": ("gpt2", "gpt_neox", "mistral", "bert", 3),
    }
    for name, values in changes.items():
        for value in values:
            yield _case(f"config, {name}={value!r}", lambda place, n=name, v=value: _change(place, n, v))


def _change(place: Path, name: str, value: object) -> None:
    _write(place / "config.json", json.loads((place / "config.json").read_text()) | {name: value})


def _weights() -> Iterator[Case]:
    names = sorted(load_file(folder() / "model.safetensors"))

    def change(name: str, new: Callable[[torch.Tensor], torch.Tensor | None]) -> Callable[[Path], object]:
        def damage(place: Path) -> None:
            weights = load_file(place / "model.safetensors")
            value = new(weights.pop(name))
            save_file(weights | ({} if value is None else {name: value}), place / "model.safetensors")

        return damage

    def with_nan(value: torch.Tensor) -> torch.Tensor:
        value.view(-1)[-1] = torch.nan
        return value

    for name in names:
        of_scores = name == "lm_head.weight"  # which an embedding does not read
        call = _scored if of_scores else _embedded
        yield _case(f"no {name}", change(name, lambda value: None), call)
        yield _case(f"{name} with a NaN", change(name, with_nan), call)
        yield _case(f"{name} with a row less", change(name, lambda value: value[1:].contiguous()), call)
        yield _case(f"{name} as whole numbers", change(name, lambda value: value.long()), call)


def _dictionaries() -> Iterator[Case]:
    """Dictionaries that were extracted wrongly or from another model, and files that are not dictionaries."""
    good = dictionary()
    genes = [name for name in good if name.startswith("ENSG")]
    n_times = len(TIMES)
    times_first = [*list(good)[:4], *TIMES, *genes]
    swapped = good | {genes[0]: good[genes[1]], genes[1]: good[genes[0]]}
    moved = {name: token - 1 for name, token in good.items() if token > 2} | {"<pad>": 0, "<mask>": 1}
    wrong: dict[str, object] = {
        "all tokens one less and <bos> the last": moved | {"<bos>": len(good) - 1},
        "tokens of time before genes": {name: token for token, name in enumerate(times_first)},
        "genes in another order": swapped,
        "<bos> is another token": good | {"<bos>": 3, "<eos>": 2},
        "<cls> in place of <bos>": {"<cls>" if name == "<bos>" else name: token for name, token in good.items()},
        "a gene less": {name: token for name, token in good.items() if name != genes[-1]},
        "times left out": {name: token for name, token in good.items() if token < len(good) - n_times},
        "a token twice": good | {genes[0]: good[genes[1]]},
        "tokens that are text": {name: str(token) for name, token in good.items()},
        "nothing": {},
        "a list": list(good),
    }
    for name, content in wrong.items():
        yield _case(f"dictionary: {name}", lambda place, c=content: _write(place / "token_dictionary.json", c))


def _of_others() -> Iterator[Case]:
    """The weights of one backbone with the config of the other, and checkpoints of another kind than requested."""

    def take(name: str) -> Callable[[Path], object]:
        return lambda place: shutil.copyfile(world.folder() / name, place / name)

    yield _case("weights of an encoder", take("model.safetensors"))
    yield _case("config of an encoder", take("config.json"))

    def gpt(place: Path) -> None:
        weights = {"transformer.wte.weight": torch.zeros(38, 16), "transformer.h.0.attn.c_attn.weight": torch.ones(16)}
        save_file(weights, place / "model.safetensors")
        _write(
            place / "config.json",
            {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 38, "n_embd": 16, "n_layer": 2}
            | {"n_positions": 64, "n_head": 2},
        )

    yield _case("GPT-2", gpt)
    for kind in ("CellClassifier", "GeneClassifier"):
        from_pretrained = getattr(sg.model, kind).from_pretrained
        yield _case(f"as a {kind}", lambda place: None, lambda place, data, load=from_pretrained: load(place, data))
    yield _case("for pretraining", lambda place: None, lambda place, data: sg.model.Geneformer.from_pretrained(place))
    yield Case("likelihoods of an encoder without a head", lambda: _scored(world.folder(), world.tokenized()))
    yield Case("an encoder completes cells", lambda: sg.tl.complete(world.tokenized(), world.folder(), n_genes=3))
