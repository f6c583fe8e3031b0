"""A study's table as Parquet, where pyarrow is installed: the extra `dno[parquet]`."""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dno.files import write_file


def write_parquet(rows: Sequence[Mapping[str, Any]], path: Path) -> bool:
    """Write the rows; what a row has not, and what is not finite, is null.

    Args:
        rows: by column; a column has text, whole numbers or numbers.
        path: where.

    Returns:
        Whether pyarrow is here, without which nothing is written.

    Raises:
        RunError: the disk is full, or the folder may not be written.
    """
    if importlib.util.find_spec("pyarrow") is None:
        return False
    import pyarrow
    from pyarrow import parquet

    titles = list(dict.fromkeys(name for row in rows for name in row))
    columns = {title: _column([row.get(title) for row in rows]) for title in titles}
    content = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), content)
    write_file(path, content.getvalue())
    return True


def _column(values: Sequence[Any]) -> Any:
    import pyarrow

    found = [None if _is_not_finite(value) else value for value in values]
    there = [value for value in found if value is not None]
    if any(isinstance(value, str) for value in there):
        return pyarrow.array([None if value is None else str(value) for value in found])
    if all(isinstance(value, int) for value in there):
        # Seeds have up to 64 bits.
        large = max(there, default=0) > 2**63 - 1
        return pyarrow.array(found, pyarrow.uint64() if large else pyarrow.int64())
    return pyarrow.array(found, pyarrow.float64())


def _is_not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
