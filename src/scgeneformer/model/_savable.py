"""Models that are saved to a folder, and loaded from it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scvi.model._utils import parse_device_args
from scvi.model.base import BaseModelClass

from scgeneformer._arguments import checked

from ._saving import PICKLE, is_saved, load_model, load_registry, save_model, saved_data

if TYPE_CHECKING:
    from typing import Self

    from anndata import AnnData
    from mudata import MuData


class SavableModel(BaseModelClass):
    """An scvi-tools-style model that is saved as JSON and safetensors instead of a pickle."""

    @checked
    def save(
        self,
        dir_path: str | Path,
        *,
        prefix: str | None = None,
        overwrite: bool = False,
        save_anndata: bool = False,
        **anndata_write_kwargs: Any,
    ) -> None:
        """Save the model to a folder, from which :meth:`load` restores it.

        The folder of a model with an encoder is also an export, which :func:`scgeneformer.hub.load` and transformers load. Information for
        this package only (arguments, registry, history, split of cells, adapters before merging) is in ``scgeneformer.json`` and
        ``scgeneformer.safetensors``. Loading the folder cannot run code.

        Parameters
        ----------
        dir_path
            Folder.
        prefix
            Prefix of the file names, so that one folder can hold several models. Only :meth:`load` finds such files.
        overwrite
            Write to an existing folder. Other files in it are kept.
        save_anndata
            Also write the data.
        **anndata_write_kwargs
            For :meth:`anndata.AnnData.write_h5ad`.

        Raises
        ------
        ValueError
            If the folder exists and `overwrite` is False, or there are no data to write.
        TypeError
            If the model has attributes that cannot be saved.

        Examples
        --------
        `model` is a trained :class:`CellClassifier`.

        >>> model.save("classifier")
        >>> model.save("classifier", overwrite=True, save_anndata=True)
        """
        folder = Path(dir_path).expanduser()
        options = {"overwrite": overwrite, "save_anndata": save_anndata}
        save_model(self, folder, prefix=prefix or "", **options, **anndata_write_kwargs)

    @classmethod
    @checked
    def load(
        cls,
        dir_path: str | Path,
        adata: AnnData | MuData | Literal[False] | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
        prefix: str | None = None,
        *,
        allow_pickle: bool = False,
    ) -> Self:
        """Load a model, with its vocabulary if it has one, that was saved with :meth:`save`.

        Parameters
        ----------
        dir_path
            Folder.
        adata
            Data with the same slots as those that the model was set up with, tokenized with its vocabulary if it reads tokens. Defaults to the data saved with the
            model, if any; False attaches none.
        accelerator, device
            Device of the model, as in scvi-tools.
        prefix
            The `prefix` given to :meth:`save`.
        allow_pickle
            Also load ``model.pt`` of older versions. A pickle can run any code: use this only if you trust its source.

        Raises
        ------
        FileNotFoundError
            If there is no saved model.
        ValueError
            If the model is of another class, a pickle, or damaged, or the data were tokenized with another vocabulary.

        Examples
        --------
        `model` is a trained :class:`CellClassifier`.

        >>> model.save("classifier")
        >>> sg.pp.tokenize(adata, model.vocabulary)
        >>> loaded = sg.model.CellClassifier.load("classifier", adata)
        >>> len(loaded.predict()) == adata.n_obs
        True
        """
        folder, prefix = Path(dir_path).expanduser(), prefix or ""
        *_, torch_device = parse_device_args(accelerator, device, return_device="torch", validate_single_device=True)
        old = folder / f"{prefix}{PICKLE}"
        if allow_pickle and old.is_file() and not is_saved(folder, prefix):
            msg = f"{old} is a pickle, which runs any code that it contains. Save the model again with `model.save`."
            warnings.warn(msg, stacklevel=3)
            model = super().load(str(folder), adata=False, accelerator=accelerator, device=device, prefix=prefix)
        else:
            model = load_model(cls, folder, prefix)
            model.to_device(torch_device)
        # data come after loading, since scvi-tools would compare names of genes, which mean nothing to tokens
        if adata is None:
            adata = saved_data(folder, prefix)
        if adata is not None and adata is not False:
            model._validate_anndata(adata)
        return model

    @staticmethod
    @checked
    def is_saved(dir_path: str | Path) -> bool:
        """Whether a folder holds a model, of any class, that was saved with :meth:`save`."""
        return is_saved(dir_path)

    @classmethod
    @checked
    def load_registry(cls, dir_path: str | Path, prefix: str | None = None) -> dict[str, Any]:
        """The registry of a model that was saved with :meth:`save`."""
        return load_registry(cls, Path(dir_path).expanduser(), prefix or "")

    @classmethod
    def convert_legacy_save(cls, *args: Any, **kwargs: Any) -> None:
        """Raise: the format that scvi-tools converts is a pickle, and older than this package."""
        msg = f"No {cls.__name__} was ever saved in the format of scvi-tools before 0.15. Use `{cls.__name__}.load`."
        raise ValueError(msg)
