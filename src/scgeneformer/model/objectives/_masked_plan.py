"""How masked genes are trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer.model.data._batches import masked_batch
from scgeneformer.model.data._masking import FIXED_EPOCH
from scgeneformer.model.training._plan import Plan

if TYPE_CHECKING:
    from torch import Tensor

    from scgeneformer.model.data._masking import Masking

    from ._masked import GeneformerModule


class GeneformerPlan(Plan):
    """Masked-gene training.

    Parameters
    ----------
    module
        What is trained.
    masking
        Applied to batches of a data module of one's own, which come unmasked; batches of this package's loader are masked already.
    **kwargs
        See `Plan`.
    """

    def __init__(self, module: GeneformerModule, *, masking: Masking, **kwargs: Any) -> None:
        super().__init__(module, **kwargs)
        self.masking = masking
        self._seen = 0

    def fingerprint(self) -> dict[str, Any]:
        """Rule and seed of the masks."""
        return {"masking": self.masking.rule, "rng": self.masking.seed}

    def prepared(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Mask a batch that comes with ``tokens`` only (and ``cells``, if its masks shall not depend on the order of batches)."""
        if "targets" in batch:
            return batch
        tokens = batch["tokens"].cpu().numpy()
        cells = batch["cells"].cpu().numpy() if "cells" in batch else self._seen + np.arange(len(tokens))
        self._seen += len(tokens)
        epoch = self.current_epoch if self.trainer.training else FIXED_EPOCH
        made = masked_batch(tokens, (tokens != 0).sum(1), cells, epoch, self.masking)
        return {name: value.to(batch["tokens"].device) for name, value in made.items()}
