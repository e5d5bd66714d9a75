"""Tables -> arrays: pandas, polars and whatever else has `to_numpy`. None of them is imported here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from kerastorch.errors import DataError

Array = np.ndarray[Any, Any]
_NUMBERS = (bool, int, float, np.number, np.bool_)


def is_table(value: Any) -> bool:
    """Whether it is a DataFrame, a Series or the like."""
    return hasattr(value, "to_numpy") and not isinstance(value, type)


def to_array(table: Any, name: str) -> Array:
    """Return the numbers of a table in one dtype that holds them all.

    Args:
        table: A DataFrame `(N, C)`, also of one column, or a Series `(N,)`.
        name: What holds it, for messages: `"dl_train"`.

    Returns:
        `(N, C)` or `(N,)`: bool where all is bool, integers where there is nothing else, else floats, with NaN for what
        is missing. It may share memory with the table.

    Raises:
        DataError: A column holds something else than numbers, or integers of which some are missing; it is named.
    """
    if not hasattr(table, "columns"):
        return _numbers(table, _Place(name, table, getattr(table, "name", None)))
    dtypes = set(table.dtypes)
    if len(dtypes) == 1 and _is_plain(*dtypes):
        return np.asarray(table.to_numpy())
    columns = [_numbers(column, _Place(name, table, label)) for label, column in _columns(table)]
    if not columns:
        raise DataError(f"{name} is empty: its {type(table).__name__} has no columns.")
    # filled row by row and turned: four times as fast as filling columns
    turned: Array = np.empty((len(columns), len(columns[0])), np.result_type(*(column.dtype for column in columns)))
    for row, column in zip(turned, columns, strict=True):
        row[:] = column
    return np.transpose(turned)


class _Place(NamedTuple):
    """Where a column is, for messages."""

    name: str
    table: Any
    label: Any


def _columns(table: Any) -> Iterator[tuple[Any, Any]]:
    if hasattr(table, "items"):  # two columns of pandas may have one name
        yield from table.items()
    else:
        yield from ((label, table[label]) for label in table.columns)


def _is_plain(dtype: Any) -> bool:
    return isinstance(dtype, np.dtype) and dtype.kind in "fiubc"


def _numbers(column: Any, place: _Place) -> Array:
    dtype = getattr(column, "dtype", None)
    array = np.asarray(column.to_numpy())
    if _is_plain(dtype):
        return array
    missing = _missing(column, array)
    present = array[~missing]
    if present.dtype.kind == "O" and all(isinstance(value, _NUMBERS) for value in present):
        present = np.array(present.tolist(), None if present.size else bool)  # nothing at all is not a float
    if str(dtype) == "category" or not _is_plain(present.dtype):
        raise DataError(_refusal(place, "categories" if str(dtype) == "category" else _kind(present), present))
    if not missing.any():
        return present.reshape(array.shape)
    if present.dtype.kind != "f" or "int" in str(dtype).lower():  # integers with gaps come as floats with NaN
        raise DataError(_refusal(place, "gaps", missing))
    filled: Array = np.full(array.shape, np.nan, present.dtype)
    filled[~missing] = present
    return filled


def _missing(column: Any, array: Array) -> Array:
    test = getattr(column, "isna", None) or getattr(column, "is_null", None)
    return np.zeros(array.shape, bool) if test is None else np.asarray(test(), bool)


def _kind(values: Array) -> str:
    if values.dtype.kind in "Mm":
        return "dates" if values.dtype.kind == "M" else "durations"
    first = _first_strange(values)
    if isinstance(first, (str, bytes)):
        return "text"
    return "dates" if hasattr(first, "year") else "objects"


def _first_strange(values: Array) -> Any:
    return next((value for value in values if not isinstance(value, _NUMBERS)), values[0])  # else an int too large


_HINTS = {
    "text": "{column}.astype('category').cat.codes for a number per value",
    "categories": "{column}.cat.codes for a number per value",
    "dates": "{column}.dt.month, .dt.dayofweek or whatever tells the net something",
    "durations": "{column}.dt.total_seconds()",
    "gaps": "{column}.fillna(0), or drop such rows first: frame.dropna()",
    "objects": "numpy.stack({column}) if each is an array",
    "dummies": ", or pandas.get_dummies(frame, columns=[{label!r}]) for a column per value",
}
_HINTS_FOR_POLARS = _HINTS | {
    "text": "{column}.cast(polars.Categorical).to_physical() for a number per value",
    "dates": "{column}.dt.month(), .dt.weekday() or whatever tells the net something",
    "gaps": "{column}.fill_null(0), or drop such rows first: frame.drop_nulls()",
    "dummies": ", or frame.to_dummies([{label!r}]) for a column per value",
}


def _refusal(place: _Place, kind: str, values: Array) -> str:
    name, table, label = place
    hints = _HINTS_FOR_POLARS if type(table).__module__.startswith("polars") else _HINTS
    in_frame = hasattr(table, "columns")
    where = f"column {label!r}" if in_frame else type(table).__name__ + ("" if label is None else f" {label!r}")
    what = f"holds {kind}"
    if kind == "gaps":
        what = f"lacks {int(values.sum())} of {values.size} values"
    elif kind == "objects":
        what = f"holds objects of the type {type(_first_strange(values)).__name__}"
    hint = hints[kind] + (hints["dummies"] if in_frame and kind in ("text", "categories") else "")
    column = f"frame[{label!r}]" if in_frame else "series"
    return f"{name} needs numbers, but its {where} {what}. Type {hint.format(column=column, label=label)}."
