"""Tokens as scvi-tools sees them: the registered field, and the split into training and validation cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scvi.data.fields import MuDataWrapper, ObsmField
from scvi.dataloaders import DataSplitter

from scgeneformer import _keys
from scgeneformer.tokens import read_tokens, token_params

from ._batches import TokenBatches, TokenDataset, TokenLoader

if TYPE_CHECKING:
    from anndata import AnnData
    from scvi.data import AnnDataManager

    from scgeneformer.tokens import Vocabulary

    from ._masking import Masking

TOKENS_FIELD = "tokens"  # name of the field in the registry


class TokensField(ObsmField):
    """Token matrix in ``obsm``: any width is fine, another vocabulary is not.

    scvi-tools' own field for ``obsm`` fixes the number of columns, which for tokens is only the length of the longest cell. This one
    stores name and hash of the vocabulary, and refuses data that were tokenized with another one.
    """

    def __init__(self, registry_key: str, attr_key: str) -> None:
        super().__init__(registry_key, attr_key, correct_data_format=False)

    def validate_field(self, adata: AnnData) -> None:
        """Check that there are tokens of one vocabulary; whether they are whole is seen when they are read."""
        token_params(adata, self.attr_key)

    def register_field(self, adata: AnnData) -> dict[str, str]:
        """Note the vocabulary."""
        self.validate_field(adata)
        made_with = token_params(adata, self.attr_key)
        return vocabulary_state(str(made_with["vocabulary"]), str(made_with["vocabulary_hash"]))

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict[str, str]:
        """Accept tokens of the same vocabulary only."""
        state = self.register_field(adata_target)
        if state["vocabulary_hash"] != state_registry["vocabulary_hash"]:
            msg = (
                f"The tokens in .obsm[{self.attr_key!r}] were made with vocabulary {state['vocabulary']!r}, but this model "
                f"with {state_registry['vocabulary']!r}. Run `sg.pp.tokenize(adata, model.vocabulary)` first."
            )
            raise ValueError(msg)
        return state

    def get_summary_stats(self, state_registry: dict) -> dict[str, int]:
        """Nothing that sizes of the network depend on."""
        return {}


MuDataTokensField = MuDataWrapper(TokensField)


def vocabulary_state(name: str, digest: str) -> dict[str, str]:
    """What a registry holds of a vocabulary."""
    return {"vocabulary": name, "vocabulary_hash": digest}


def registry_without_data(
    model_name: str, name: str, digest: str, *, setup_args: dict | None = None, fields: dict | None = None
) -> dict[str, Any]:
    """The registry that ``setup_anndata`` would have made, for a model that has seen no data yet."""
    tokens = field_registry("obsm", _keys.TOKENS, vocabulary_state(name, digest))
    return {
        "model_name": model_name,
        "setup_method_name": "setup_anndata",
        "setup_args": {"tokens_key": _keys.TOKENS, **(setup_args or {})},
        "field_registries": {TOKENS_FIELD: tokens, **(fields or {})},
    }


def field_registry(slot: str, key: str, state: dict[str, Any]) -> dict[str, Any]:
    """What a registry holds of one field."""
    return {"data_registry": {"attr_name": slot, "attr_key": key}, "state_registry": state, "summary_stats": {}}


def registered_tokens(manager: AnnDataManager, vocabulary: Vocabulary) -> tuple[Any, np.ndarray]:
    """Token matrix of registered data (NumPy or dask), checked, and the length of each row."""
    where = manager.data_registry[TOKENS_FIELD]
    cells = manager.adata if where.get("mod_key") is None else manager.adata[where["mod_key"]]
    tokens = read_tokens(cells, where["attr_key"], vocabulary, model=vocabulary.name)
    return tokens, np.asarray((tokens != vocabulary.pad_id).sum(axis=1)).astype(np.int64)


class TokenSplitter(DataSplitter):
    """Training and validation cells, in batches by length; masks of validation cells never change.

    Parameters
    ----------
    adata_manager
        Of registered data. Lazy tokens are brought into memory here, at two bytes each.
    masking
        What to hide.
    token_budget, batch_size
        See `TokenBatches`.
    vocabulary
        What the tokens were made with.
    train_size, validation_size, shuffle_set_split, external_indexing
        As in scvi-tools.
    seed
        Of the split and of the order of cells.
    **loader_kwargs
        For :class:`torch.utils.data.DataLoader`, such as `num_workers`.
    """

    def __init__(
        self,
        adata_manager: AnnDataManager,
        *,
        masking: Masking,
        token_budget: int,
        batch_size: int | None,
        vocabulary: Vocabulary,
        train_size: float,
        validation_size: float | None,
        shuffle_set_split: bool = True,
        external_indexing: list[np.ndarray] | None = None,
        seed: int = 0,
        **loader_kwargs: Any,
    ) -> None:
        super().__init__(
            adata_manager,
            train_size=train_size,
            validation_size=validation_size,
            shuffle_set_split=shuffle_set_split,
            external_indexing=external_indexing,
        )
        self.masking, self.token_budget, self.batch_size, self.seed = masking, token_budget, batch_size, seed
        self.loader_kwargs = loader_kwargs
        tokens, self.lengths = registered_tokens(adata_manager, vocabulary)
        self.tokens = np.asarray(tokens)

    def setup(self, stage: str | None = None) -> None:
        """Draw the cells of each set."""
        if self.external_indexing is not None or not self.shuffle_set_split:
            super().setup(stage)
            return
        order = np.random.default_rng(self.seed).permutation(len(self.tokens))
        self.val_idx, self.train_idx, self.test_idx = np.split(order, [self.n_val, self.n_val + self.n_train])

    def train_dataloader(self) -> TokenLoader:
        """Shuffled batches of the training cells."""
        return self._loader(self.train_idx, shuffle=True)

    def val_dataloader(self) -> TokenLoader | None:
        """Fixed batches of the validation cells."""
        return self._loader(self.val_idx, shuffle=False) if len(self.val_idx) else None

    def test_dataloader(self) -> TokenLoader | None:
        """Fixed batches of the cells in neither set."""
        return self._loader(self.test_idx, shuffle=False) if len(self.test_idx) else None

    def _loader(self, cells: np.ndarray, *, shuffle: bool) -> TokenLoader:
        cells = np.sort(np.asarray(cells, dtype=np.int64))
        lengths = self.lengths[cells]
        cells, lengths = cells[lengths > 0], lengths[lengths > 0]  # an empty cell has nothing to hide
        trainer = self.trainer
        sampler = TokenBatches(
            lengths,
            token_budget=self.token_budget,
            batch_size=self.batch_size,
            shuffle=shuffle,
            seed=self.seed,
            rank=trainer.global_rank if trainer is not None else 0,
            world=trainer.world_size if trainer is not None else 1,
        )
        return TokenLoader(TokenDataset(self.tokens, cells, lengths, self.masking), sampler, **self.loader_kwargs)
