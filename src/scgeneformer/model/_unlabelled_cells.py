"""Registration of tokens alone: of an AnnData, or of one modality of a MuData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scgeneformer import _keys
from scgeneformer._arguments import checked

from ._base import TransformerModel
from .data._fields import TOKENS_FIELD, TokensField
from .data._setup import Places, register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from mudata import MuData


class UnlabelledCells(TransformerModel):
    """A model that reads tokens of cells and no labels of them."""

    @classmethod
    @checked
    def setup_anndata(cls, adata: AnnData, *, tokens_key: str = _keys.TOKENS, **kwargs: Any) -> None:
        """Register tokenized data with this model class.

        Parameters
        ----------
        adata
            AnnData with tokens of :func:`scgeneformer.pp.tokenize`.
        tokens_key
            Slot of the tokens in ``.obsm``.

        Raises
        ------
        KeyError, ValueError
            If there are no tokens, or if they are of another vocabulary than that of a given registry.

        Examples
        --------
        >>> sg.pp.tokenize(adata, "default")
        >>> sg.model.Geneformer.setup_anndata(adata)
        >>> model = sg.model.Geneformer.from_pretrained("default", adata)
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        cls._set_up(adata, setup_method_args, kwargs)

    @classmethod
    @checked
    def setup_mudata(
        cls,
        mdata: MuData,
        *,
        tokens_key: str = _keys.TOKENS,
        modalities: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Register the tokenized modality of a MuData with this model class.

        Parameters
        ----------
        mdata
            MuData with tokens in one of its modalities.
        tokens_key
            Slot of the tokens in ``.obsm`` of that modality.
        modalities
            Modality of the tokens. Defaults to ``{"tokens_key": "rna"}``.

        Examples
        --------
        >>> from mudata import MuData
        >>> mdata = MuData({"rna": adata})
        >>> sg.pp.tokenize(mdata, "default")
        >>> sg.model.Geneformer.setup_mudata(mdata)
        >>> model = sg.model.Geneformer.from_pretrained("default", mdata)
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        cls._set_up(mdata, setup_method_args, kwargs)

    @classmethod
    def _set_up(cls, data: AnnData | MuData, setup: dict[str, Any], words: dict[str, Any]) -> None:
        places = Places(data, ["tokens_key"], setup)
        field = places.field("tokens_key", TokensField, TOKENS_FIELD, setup["setup_args"]["tokens_key"])
        register(cls, data, [field], setup, words)
