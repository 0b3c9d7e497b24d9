"""Files as R writes them, with objects of S4 classes."""

from __future__ import annotations

import gzip
import io
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from pathlib import Path

    from scipy import sparse


class S4(SimpleNamespace):
    """Slots of an object."""


def write_rda(path: Path, **objects: Any) -> Path:
    """Write objects, among them :class:`S4` ones, which the writer of rdata lacks."""
    from rdata.conversion import to_r
    from rdata.parser import RObjectType
    from rdata.unparser import UnparserXDR, _unparser

    def construct(slots: S4, converter: Any) -> Any:
        attributes = converter.convert_to_r_attributes(vars(slots))
        return to_r.build_r_object(RObjectType.S4, is_object=True, attributes=attributes)

    class Writer(UnparserXDR):
        def unparse_r_object(self, obj: Any) -> None:
            if obj.info.type is not RObjectType.S4:
                super().unparse_r_object(obj)
                return
            self.unparse_int(_unparser.pack_r_object_info(obj.info))
            self.unparse_r_object(obj.attributes)

    def construct_table(table: pd.DataFrame, converter: Any) -> Any:
        """Strings as objects, since rdata does not know those of pandas 3."""
        plain = table.astype({name: object for name in table if pd.api.types.is_string_dtype(table[name])})
        if pd.api.types.is_string_dtype(table.index):
            plain.index = table.index.astype(object)
        return to_r.dataframe_constructor(plain, converter)

    constructors = {**to_r.DEFAULT_CLASS_MAP, S4: construct, pd.DataFrame: construct_table}
    data = to_r.convert_python_to_r_data(objects, file_type="rda", constructor_dict=constructors)
    content = io.BytesIO()
    content.write(b"RDX3\n")
    Writer(content).unparse_r_data(data)
    path.write_bytes(gzip.compress(content.getvalue()))
    return path


def dgc_matrix(values: sparse.spmatrix, rows: list[str] | None = None, columns: list[str] | None = None) -> S4:
    values = values.tocsc()
    names = [None if part is None else np.array(part) for part in (rows, columns)]
    slots = {"i": values.indices, "p": values.indptr, "Dim": np.array(values.shape, np.int32), "Dimnames": names}
    return S4(**slots, x=values.data.astype(float), factors=[], **{"class": "dgCMatrix"})


def dframe(columns: dict[str, Any], rows: list[str]) -> S4:
    return S4(rownames=np.array(rows), nrows=np.array([len(rows)]), listData=columns, **{"class": "DFrame"})
