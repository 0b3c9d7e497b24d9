"""Commands that train models, and write them to folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scgeneformer import _files
from scgeneformer._arguments import parameters_of

from ._command import call, calls, say
from ._data import check_input, check_new_folder, read, tabulate

if TYPE_CHECKING:
    from scgeneformer.model._base import TransformerModel

# what only another class of data, or an object of Python, could fill
_WITHOUT = ("config", "vocabulary", "save_anndata", "prefix")
_SPLIT = ("train_size", "validation_size", "shuffle_set_split", "datasplitter_kwargs")  # a corpus has its own


def _train(cls: type[TransformerModel], input: Path, folder: Path, options: dict[str, Any], *, overwrite: bool) -> None:
    from scgeneformer import _keys

    check_new_folder(folder, overwrite=overwrite)
    adata = _keys.as_adata(read(input), options.pop("mod", "rna"))
    call(cls.setup_anndata, adata, options=options)
    model = call(cls, adata, options=options)
    call(cls.train, model, options=options)
    say(f"kept {model.selected.kept!r}: {model.selected.reason}" if model.selected else "trained")
    _save(model, folder)


def _save(model: TransformerModel, folder: Path) -> None:
    model.save(folder, overwrite=True)  # checked before
    say(f"wrote {folder}")


@calls(
    "model.CellClassifier.setup_anndata",
    "model.CellClassifier",
    "model.CellClassifier.train",
    without=_WITHOUT,
)
def cells(input: Path, folder: Path, *, mod: str = "rna", overwrite: bool = False, **options: Any) -> None:
    """Train a classifier of tokenized cells.

    Parameters
    ----------
    mod
        Modality of a MuData.
    """
    from scgeneformer.model import CellClassifier

    _train(CellClassifier, input, folder, options | {"mod": mod}, overwrite=overwrite)


@calls(
    "model.GeneClassifier.setup_anndata",
    "model.GeneClassifier",
    "model.GeneClassifier.train",
    without=_WITHOUT,
)
def genes(
    input: Path, folder: Path, classes: str, *, mod: str = "rna", overwrite: bool = False, **options: Any
) -> None:
    """Train a classifier of genes, in tokenized cells.

    Parameters
    ----------
    classes
        File of sets (.gmt, or .csv with columns source and target), name of a list (see `scgeneformer datasets`), or column of .var.
    mod
        Modality of a MuData.
    """
    from scgeneformer import datasets
    from scgeneformer.model import GeneClassifier

    options |= {"mod": mod, "classes": classes}
    if Path(classes).is_file():
        options["classes"] = datasets.read_gene_sets(classes)
    elif repr(classes) in parameters_of(datasets.gene_classes)["name"].annotation:
        options["classes"] = call(datasets.gene_classes, classes, options={})
    _train(GeneClassifier, input, folder, options, overwrite=overwrite)


@calls(
    "model.Corpus",
    "model.Geneformer",
    "model.Geneformer.train",
    without=("files", "vocabulary", "datamodule", *_SPLIT),
)
def pretrain(
    input: str,
    folder: Path,
    *,
    model: str | None = None,
    preset: str | None = None,
    vocabulary: str | None = None,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Pretrain a model on counts in files, which are read while it trains.

    Parameters
    ----------
    input
        File with raw counts (.h5ad or .zarr), folder of files, or pattern in quotes such as 'atlas/*.h5ad'.
    model
        Pretrained model to train further: a name, or a folder.
    preset
        Published size and training of a new model, such as V1-10M; other options change them.
    vocabulary
        Name, folder or file of the vocabulary of a new model (see `scgeneformer vocabulary`). Defaults to that of the preset.
    """
    from scgeneformer import hub
    from scgeneformer.model import Corpus, Geneformer, recipe

    sizes = {name: value for name, value in options.items() if name in parameters_of(Geneformer)}
    if model is None and preset is None and vocabulary is None:
        msg = (
            "Nothing to train. Give --model to continue with a model, or --preset, --vocabulary or both for a new one."
        )
        raise ValueError(msg)
    if model is not None and (sizes.keys() - parameters_of(Corpus).keys() or preset or vocabulary):
        msg = f"--model {model} has its own size and vocabulary: leave out --preset, --vocabulary and {sorted(sizes)}."
        raise ValueError(msg)
    check_new_folder(folder, overwrite=overwrite)
    known = None if vocabulary is None else hub.vocabulary(vocabulary)
    if model is not None:
        network = Geneformer.from_pretrained(model)
    elif preset is not None:
        network = Geneformer.from_preset(preset, vocabulary=known, **sizes)
        options = recipe(preset) | options
    else:
        network = Geneformer(vocabulary=known, **sizes)
    corpus = call(Corpus, input, network, options=options)
    say(str(corpus))
    call(Geneformer.train, network, options=options, datamodule=corpus)
    _save(network, folder)


@calls("tokens.Vocabulary.from_adata")
def vocabulary(input: Path, output: Path, *, overwrite: bool = False, **options: Any) -> None:
    """Make the vocabulary of a new corpus.

    Parameters
    ----------
    input
        Raw counts: a .h5ad file.
    output
        File to write: .json, .json.gz or .parquet.
    """
    from scgeneformer.tokens import Vocabulary

    check_input(input)
    _files.check_output(output, overwrite=overwrite)
    call(Vocabulary.from_adata, input, options=options).save(output)
    say(f"wrote {output}")


@calls("model.CellClassifier.setup_anndata", "model.tune", without=("model_cls", "folder"))
def tune(
    input: Path,
    folder: Path,
    *,
    search: Path,
    mod: str = "rna",
    table: Path | None = None,
    overwrite: bool = False,
    **options: Any,
) -> str | None:
    """Search for hyperparameters of a classifier of cells, and keep the best.

    Parameters
    ----------
    folder
        Folder of the best model.
    search
        Folder of the search. The same command resumes one that was interrupted.
    mod
        Modality of a MuData.
    """
    from scgeneformer import _keys, model

    check_new_folder(folder, overwrite=overwrite)
    _files.check_folder(search)
    adata = _keys.as_adata(read(input), mod)
    call(model.CellClassifier.setup_anndata, adata, options=options)
    result = call(model.tune, model.CellClassifier, adata, options=options, folder=search)
    _save(result.best_model, folder)
    return None if table is None else tabulate(result.table, table)
