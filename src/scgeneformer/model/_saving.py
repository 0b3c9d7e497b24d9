"""Models in folders: an export that others load, and beside it what only this package knows, in JSON and safetensors."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import anndata
import mudata
import numpy as np
import pandas as pd
import torch

from scgeneformer import nn
from scgeneformer._files import write_tensors
from scgeneformer.tokens import Vocabulary

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData
    from torch import Tensor

    from ._savable import SavableModel

STATE, TENSORS, PICKLE = "scgeneformer.json", "scgeneformer.safetensors", "model.pt"
VOCABULARY, WEIGHTS = "vocabulary.json.gz", "model.safetensors"
_DATA = {"adata.h5ad": anndata.read_h5ad, "mdata.h5mu": mudata.read_h5mu}
_FORMAT = "scgeneformer model 1"
_SETUPS = ("setup_anndata", "setup_mudata")
_KIND = "__kind__"  # marks what JSON cannot express
_NETWORK, _MODULE = "network.", "module."


def is_saved(folder: str | Path, prefix: str = "") -> bool:
    """Whether `folder` has a model that `save_model` wrote."""
    return (Path(folder) / f"{prefix}{STATE}").is_file()


def save_model(
    model: SavableModel, folder: Path, *, prefix: str, overwrite: bool, save_anndata: bool, **write_kwargs: Any
) -> None:
    """Write `model` to `folder`; existing files are replaced once everything is written.

    Raises
    ------
    ValueError
        If the folder exists and must not be overwritten, or there are no data to save.
    TypeError
        If an attribute is of a type that cannot be saved.
    """
    if folder.exists() and not overwrite:
        msg = f"{folder} exists. Choose another folder, or pass overwrite=True."
        raise ValueError(msg)
    if save_anndata and model.adata is None:
        msg = "save_anndata=True, but this model has no data. Leave it out."
        raise ValueError(msg)
    state = {name: value for name, value in model._get_user_attributes() if name.endswith("_") and name[0] != "_"}
    is_transformer = hasattr(model.module, "network")  # which is exported, with its vocabulary
    if is_transformer:
        init = state["init_params_"]
        state["init_params_"] = init | {"non_kwargs": init["non_kwargs"] | {"vocabulary": None}}
    tensors: dict[str, Tensor] = {}
    content = {"format": _FORMAT, "class": type(model).__name__, "state": _packed(state, tensors, "")}
    # weights of a plain network are in the export; of others that is a merged copy
    exported = is_transformer and is_plain(model.module.network)
    for name, value in model.module.state_dict().items():
        if not (exported and name.startswith(_NETWORK)):
            tensors[_MODULE + name] = value
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as name:
        part = Path(name)
        if is_transformer:
            model.export(part)
        if save_anndata:
            data = "mdata.h5mu" if isinstance(model.adata, mudata.MuData) else "adata.h5ad"
            model.adata.write(part / data, **write_kwargs)
        write_tensors(part / TENSORS, tensors)
        (part / STATE).write_text(json.dumps(content) + "\n", encoding="utf-8")
        # a folder without it is not a saved model, so files of two models are never taken for one
        (folder / f"{prefix}{STATE}").unlink(missing_ok=True)
        for path in sorted(part.iterdir(), key=lambda path: path.name == STATE):
            path.replace(folder / f"{prefix}{path.name}")


def load_model(cls: type[SavableModel], folder: Path, prefix: str) -> SavableModel:
    """The model that `save_model` wrote to `folder`, without data, on the CPU.

    Raises
    ------
    FileNotFoundError
        If there is no such model.
    ValueError
        If it is of another class, of a newer format, an older pickle, or damaged.
    """
    state, tensors = _read(folder, prefix, cls.__name__)
    registry, init = state.pop("registry_"), state.pop("init_params_")
    arguments = init["non_kwargs"] | {k: v for given in init["kwargs"].values() for k, v in given.items()}
    if "vocabulary" in arguments:
        arguments["vocabulary"] = Vocabulary.load(folder / f"{prefix}{VOCABULARY}")
    model = cls(None, registry=registry, **arguments)
    for name, value in state.items():
        setattr(model, name, value)
    module, network = model.module, getattr(model.module, "network", None)
    weights = {name.removeprefix(_MODULE): value for name, value in tensors.items() if name.startswith(_MODULE)}
    if network is not None and is_plain(network):
        weights |= {_NETWORK + k: v for k, v in nn.read_state(network, folder / f"{prefix}{WEIGHTS}").items()}
    module.load_state_dict(weights)
    module.eval()
    return model


def load_registry(cls: type[SavableModel], folder: Path, prefix: str) -> dict[str, Any]:
    """What the model in `folder` was set up with."""
    return _read(folder, prefix, cls.__name__)[0]["registry_"]


def saved_data(folder: Path, prefix: str) -> AnnData | MuData | None:
    """The data that were saved with a model, if any were."""
    paths = [(folder / f"{prefix}{name}", read) for name, read in _DATA.items()]
    return next((read(path) for path, read in paths if path.is_file()), None)


def is_plain(network: torch.nn.Module) -> bool:
    """Whether `network` has neither adapters nor quantized layers."""
    return not hasattr(network.encoder, "peft_config") and not nn.is_quantized(network)


def _read(folder: Path, prefix: str, wanted: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    path = folder / f"{prefix}{STATE}"
    if not path.is_file():
        _refuse(folder, prefix, wanted)
    try:
        content = json.loads(path.read_bytes())
        kind, version, state = content["class"], content["format"], content["state"]
    except (ValueError, KeyError, TypeError):
        msg = f"{path} was not written by `model.save`, or is damaged. Save the model again."
        raise ValueError(msg) from None
    if version != _FORMAT:
        msg = f"{path} is in the format {version!r}, but this version of scgeneformer reads {_FORMAT!r}. Install a newer one."
        raise ValueError(msg)
    if kind != wanted:
        msg = f"{folder} holds a {kind}, not a {wanted}. Load it with `sg.model.{kind}.load({str(folder)!r})`."
        raise ValueError(msg)
    tensors = nn.read_weights(folder / f"{prefix}{TENSORS}")
    state = _unpacked(state, tensors)
    odd = [name for name in state if not name.endswith("_") or name.startswith("_")]
    if odd or state["registry_"]["setup_method_name"] not in _SETUPS:
        msg = f"{path} has entries that `model.save` does not write ({odd or 'the setup of the data'}). Do not use it."
        raise ValueError(msg)
    return state, tensors


def _refuse(folder: Path, prefix: str, wanted: str) -> NoReturn:
    """Say what `folder` holds instead of a saved model."""
    if (folder / f"{prefix}{PICKLE}").is_file():
        msg = (
            f"{folder / f'{prefix}{PICKLE}'} is a pickle, the format of older versions, and could run any code when it "
            f"is loaded. Only if you trust its source: `model = sg.model.{wanted}.load({str(folder)!r}, "
            "allow_pickle=True)`, then save the model again."
        )
        raise ValueError(msg)
    cure = "Pass the folder that `model.save` wrote."
    if (folder / f"{prefix}{WEIGHTS}").is_file():
        cure = (
            f"Load a folder of `export`, or of transformers, with `sg.model.{wanted}.from_pretrained({str(folder)!r})`."
        )
    msg = f"There is no {prefix}{STATE} in {str(folder)!r}. {cure}"
    raise FileNotFoundError(msg)


def _packed(value: Any, tensors: dict[str, Tensor], where: str) -> Any:
    """`value` as JSON, its numerical arrays among `tensors`; `where` it is in the model is for errors."""

    def inner(value: Any, name: object = "") -> Any:
        return _packed(value, tensors, f"{where}[{name!r}]" if where else str(name))

    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        if all(isinstance(name, str) and name != _KIND for name in value):
            return {name: inner(content, name) for name, content in value.items()}
        return {_KIND: "mapping", "items": [[inner(k), inner(v, k)] for k, v in value.items()]}
    if isinstance(value, list):
        return [inner(content, i) for i, content in enumerate(value)]
    if isinstance(value, tuple | set | frozenset):
        kind = "tuple" if isinstance(value, tuple) else "set"
        return {_KIND: kind, "values": [inner(content, i) for i, content in enumerate(value)]}
    if isinstance(value, pd.DataFrame):
        columns = [inner(value.iloc[:, i].to_numpy(), name) for i, name in enumerate(value)]
        axes = {"index": inner(value.index.to_numpy()), "names": inner(value.columns.to_numpy())}
        titles = {"index_name": inner(value.index.name), "names_name": inner(value.columns.name)}
        return {_KIND: "frame", "columns": columns} | axes | titles
    if isinstance(value, torch.Tensor) or hasattr(value, "__array__"):
        return _packed_array(value, tensors, inner, where)
    msg = f"{where} of this model is a {type(value).__name__}, which cannot be saved. Use numbers, strings, arrays, lists or dicts."
    raise TypeError(msg)


def _packed_array(value: Any, tensors: dict[str, Tensor], inner: Any, where: str) -> Any:
    kind = "tensor" if isinstance(value, torch.Tensor) else "scalar" if isinstance(value, np.generic) else "array"
    if kind != "tensor":
        value = np.asarray(value)
        if value.dtype.kind in "UO":  # strings, and objects that are one by one something else
            values = [inner(content, i) for i, content in enumerate(value.ravel().tolist())]
            return {_KIND: "objects", "dtype": value.dtype.str, "shape": list(value.shape), "values": values}
        if value.dtype.kind not in "biuf":
            msg = f"{where} of this model is an array of {value.dtype}, which cannot be saved. Use numbers or strings."
            raise TypeError(msg)
        value = torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C"))
    name = f"array.{len(tensors)}"
    tensors[name] = value.detach().cpu().clone().contiguous()
    return {_KIND: kind, "name": name}


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `_packed` was given."""

    def inner(value: Any) -> Any:
        return _unpacked(value, tensors)

    if isinstance(value, list):
        return [inner(content) for content in value]
    if not isinstance(value, dict):
        return value
    match value.get(_KIND):
        case None:
            return {name: inner(content) for name, content in value.items()}
        case "mapping":
            return {inner(name): inner(content) for name, content in value["items"]}
        case "tuple":
            return tuple(map(inner, value["values"]))
        case "set":
            return set(map(inner, value["values"]))
        case "frame":
            index = pd.Index(inner(value["index"]), name=inner(value["index_name"]))
            frame = pd.DataFrame(dict(enumerate(map(inner, value["columns"]))), index=index)
            frame.columns = pd.Index(inner(value["names"]), name=inner(value["names_name"]))
            return frame
        case "objects":
            array = np.empty(len(value["values"]), dtype=value["dtype"])
            for i, content in enumerate(value["values"]):
                array[i] = inner(content)
            return array.reshape(value["shape"])
        case "tensor":
            return tensors[value["name"]]
        case kind:
            array = tensors[value["name"]].numpy()
            return array[()] if kind == "scalar" else array
