"""How alike the vectors of two genes are before the model has seen a cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from scgeneformer.nn import Backbone


def token(encoder: Backbone, *, sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Cosine similarity of the token embeddings of S sources and G targets, float32 (S, G); NaN for a gene with itself."""
    with torch.no_grad():
        table = torch.nn.functional.normalize(encoder.token_vectors.float(), dim=-1)
        rows, columns = (table[torch.from_numpy(genes).to(table.device)] for genes in (sources, targets))
        cosines = (rows @ columns.T).cpu().numpy()
    cosines[sources[:, None] == targets] = np.nan
    return cosines
