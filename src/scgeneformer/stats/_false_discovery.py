from __future__ import annotations

import numpy as np


def benjamini_hochberg(pvalues: np.ndarray) -> np.ndarray:
    """False discovery rates by Benjamini and Hochberg (1995), NaN where the p-value is, which is not counted as a test."""
    from scipy.stats import false_discovery_control

    tested = ~np.isnan(pvalues)
    fdr = np.full(len(pvalues), np.nan)
    if tested.any():
        fdr[tested] = false_discovery_control(pvalues[tested])
    return fdr
