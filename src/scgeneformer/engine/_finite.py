"""Results that are NaN or infinite are the model's fault, unless there was nothing to compute them from."""

from __future__ import annotations

import numpy as np

from scgeneformer.tokens import token_of


def check_finite(values: np.ndarray, computed: np.ndarray | None = None) -> None:
    """Raise if the model gives NaN or infinite numbers where it had something to read.

    Parameters
    ----------
    values
        (n, ...).
    computed
        bool (n,) or of the shape of `values`: where numbers must be. None for everywhere.

    Raises
    ------
    FloatingPointError
        If one of them is NaN or infinite.
    """
    wrong = ~np.isfinite(values)
    if computed is not None:
        wrong &= computed.reshape(computed.shape + (1,) * (values.ndim - computed.ndim))
    if wrong.any():
        msg = (
            f"The model returns NaN or infinite numbers for cells that have genes ({int(wrong.sum()):,} of "
            f"{wrong.size:,} numbers in one batch). Its weights are not finite, or too large for the precision: use "
            "another checkpoint, or precision='float32'."
        )
        raise FloatingPointError(msg)


def has_states(tokens: np.ndarray, pooling: str, n_special: int) -> np.ndarray:
    """Which rows have something to pool, bool (n,): a gene for ``"mean"``, else any token."""
    return np.any(token_of(tokens) >= (n_special if pooling == "mean" else 1), axis=1)
