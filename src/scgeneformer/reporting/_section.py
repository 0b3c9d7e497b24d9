"""Parts of a page, before they are written as HTML."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 110
_DIGITS = 3


@dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes
    ----------
    caption
        What it shows.
    columns
        Names.
    rows
        Cells, row by row.
    """

    caption: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Picture:
    """A figure as a PNG image, in base64.

    Attributes
    ----------
    png
        The image.
    alt
        What it shows, in words.
    """

    png: str
    alt: str


@dataclass
class Section:
    """What the page says about one result.

    Attributes
    ----------
    title
        Heading.
    text
        Paragraphs.
    warnings
        What a reader has to know before using the result.
    pictures, tables
        Below the text.
    parts
        Sections below it, such as of groups of cells.
    """

    title: str
    text: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    parts: list[Section] = field(default_factory=list)

    def add_figure(self, figure: Figure, alt: str) -> None:
        """Add a figure, and close it."""
        import matplotlib.pyplot as plt

        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=_DPI, bbox_inches="tight", metadata={"Software": None})
        plt.close(figure)
        self.pictures.append(Picture(base64.b64encode(file.getvalue()).decode(), alt))

    def add_plot(self, plot: Callable[..., Axes | Figure | None], alt: str, adata: AnnData, **options: Any) -> None:
        """Add a figure of one of the functions in `pl`."""
        self.add_figure(cast("Figure", plot(adata, return_fig=True, **options)), alt)

    def add_table(self, frame: pd.DataFrame, caption: str) -> None:
        """Add a table, numbers with three digits."""
        columns = [str(frame.index.name or ""), *map(str, frame.columns)]
        rows = [[str(name), *map(_text, row)] for name, row in zip(frame.index, frame.to_numpy(object), strict=True)]
        self.tables.append(Table(caption, columns, rows))


def _text(value: object) -> str:
    if isinstance(value, bool | str) or not isinstance(value, int | float):
        text = str(value)
        return "" if text in ("nan", "None", "<NA>", "NaT") else text
    if value != value:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.{_DIGITS}g}"
