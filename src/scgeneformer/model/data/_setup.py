"""Registration of data with a model class: of an AnnData, or of a MuData and its modalities."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from anndata import AnnData
from mudata import MuData
from scvi.data import AnnDataManager
from scvi.data.fields import MuDataWrapper

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from scvi.data.fields import BaseAnnDataField
    from scvi.model.base import BaseModelClass

_TRANSFER_WORDS = {"source_registry", "extend_categories", "allow_missing_labels"}
_OURS = {"batch_key": "sample_key"}
_DEFAULT = "rna"


class Places:
    """Where the keys of a setup are read: in an AnnData, or in modalities of a MuData.

    Parameters
    ----------
    data
        The data.
    keys
        Names of the keys that may have a modality. The first is read in ``"rna"``, and others where the first is, unless they are named.
    setup
        Arguments of the setup, as scvi-tools keeps them; `modalities` of ``setup_mudata`` names the modality of some keys, or None for the
        MuData itself.

    Attributes
    ----------
    cells
        The data that the first key is read in.
    mods
        Modality of each key; None if there are none.

    Raises
    ------
    KeyError
        If the MuData has no such modality.
    TypeError
        If the data are not what the setup is for.
    ValueError
        If `modalities` names what is not registered.
    """

    def __init__(self, data: AnnData | MuData, keys: Sequence[str], setup: Mapping[str, Any]) -> None:
        method = setup["setup_method_name"]
        kinds = {"setup_anndata": AnnData, "setup_mudata": MuData}
        fitting = next((name for name, kind in kinds.items() if isinstance(data, kind)), None)
        if fitting != method:
            msg = f"{method} got {type(data).__name__}. {f'Use {fitting}.' if fitting else 'Pass an AnnData or a MuData.'}"
            raise TypeError(msg)
        self.mods: dict[str, str | None] | None = None
        self.cells = data
        if method == "setup_anndata":
            return
        given = dict(setup["setup_args"]["modalities"] or {})
        unknown = sorted(set(given) - set(keys))
        if unknown:
            msg = f"modalities names {unknown}, which are not registered. Name modalities of {list(keys)}."
            raise ValueError(msg)
        first = given.get(keys[0], _DEFAULT)
        if first not in data.mod:
            msg = f"No modality {first!r} in this MuData, which has {list(data.mod)}. Name the one to read: modalities={{{keys[0]!r}: ...}}."
            raise KeyError(msg)
        self.mods, self.cells = dict.fromkeys(keys, first) | given, data.mod[first]

    def field(self, key: str, kind: type[BaseAnnDataField], *args: Any, **kwargs: Any) -> BaseAnnDataField:
        """A field of this kind where `key` is read."""
        if self.mods is None:
            return kind(*args, **kwargs)
        return MuDataWrapper(kind)(*args, **kwargs, mod_key=self.mods[key])


def register(
    model_cls: type[BaseModelClass],
    data: AnnData | MuData,
    fields: Sequence[BaseAnnDataField],
    setup: dict[str, Any],
    words: Mapping[str, Any],
) -> None:
    """Register `fields` of `data` with a model class.

    Parameters
    ----------
    model_cls
        The class.
    data
        The data.
    fields
        What is registered.
    setup
        Arguments of the setup, as scvi-tools keeps them.
    words
        Further keyword arguments, with which scvi-tools transfers a setup.
    """
    check_setup_words(model_cls, words)
    manager = AnnDataManager(fields=list(fields), setup_method_args=setup)
    manager.register_fields(data, **words)
    model_cls.register_manager(manager)


def check_setup_words(model_cls: type[BaseModelClass], words: Iterable[str]) -> None:
    """Refuse keyword arguments of a setup that neither this package nor scvi-tools, when it transfers a setup, would read.

    Raises
    ------
    TypeError
        If there are such; where ours mean the same, they are named.
    """
    for word in set(words) - _TRANSFER_WORDS:
        ours = _OURS.get(word)
        applies = ours in inspect.signature(model_cls.setup_anndata).parameters
        msg = f"{model_cls.__name__} sets up no {word!r}.{f' Use {ours}.' if applies else ''}"
        raise TypeError(msg)
