"""Shared parameters are documented once, and shown in full."""

from __future__ import annotations

import inspect
from typing import TypedDict

import pytest

from scgeneformer._docs import doc_params, section, shared_options


class Options(TypedDict, total=False):
    """Options.

    Attributes
    ----------
    rate
        Learning rate.

        Above 0.
    steps
        Number of steps.

    Notes
    -----
    None.
    """

    rate: float
    steps: int | None


def test_shared_options_are_in_signature_and_docstring():
    @shared_options(Options, defaults={"rate": 0.1, "steps": None}, rest="others")
    def train(epochs: int = 1, **options):
        """Train.

        Parameters
        ----------
        epochs
            Number of epochs, such as {1, 2}.
        {options}
        **others
            Further options.
        """
        return epochs, options

    assert str(inspect.signature(train)).replace("'", "") == (
        "(epochs: int = 1, *, rate: float = 0.1, steps: int | None = None, **others: Any)"
    )
    assert train(2, steps=3, more=4) == (2, {"rate": 0.1, "steps": 3, "more": 4})
    lines = inspect.getdoc(train).splitlines()
    assert lines[3:] == [
        "----------",
        "epochs",
        "    Number of epochs, such as {1, 2}.",
        "rate",
        "    Learning rate.",
        "",
        "    Above 0.",
        "steps",
        "    Number of steps.",
        "**others",
        "    Further options.",
    ]
    assert set(train.__annotations__) == {"epochs", "rate", "steps"}


def test_texts_are_indented_as_their_place():
    @doc_params(mod="mod\n    Modality.")
    def plot():
        """Plot.

        {mod}
            {mod}
        """

    assert inspect.getdoc(plot) == "Plot.\n\nmod\n    Modality.\n    mod\n        Modality."
    with pytest.raises(ValueError, match="Returns"):
        section(plot, "Returns")
