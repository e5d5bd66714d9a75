import datetime

import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kerastorch.data.tables import is_table, to_array
from kerastorch.errors import DataError

DTYPES = ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"]


class Series:
    """The face of a Series of polars."""

    __module__ = "polars.series.series"

    def __init__(self, name, values, dtype, missing=()):
        self.name, self.dtype, self.shape = name, dtype, values.shape
        self._values, self._missing = values, [place in missing for place in range(len(values))]

    def to_numpy(self):
        return self._values

    def is_null(self):
        return self._missing


class DataFrame:
    """The face of a DataFrame of polars."""

    __module__ = "polars.dataframe.frame"

    def __init__(self, *columns):
        self.columns = [column.name for column in columns]
        self.dtypes = [column.dtype for column in columns]
        self._columns = columns

    def __getitem__(self, name):
        return self._columns[self.columns.index(name)]

    def to_numpy(self):
        return np.stack([column.to_numpy() for column in self._columns], 1)


def series(*values, dtype=None, name="a"):
    return pandas.Series(values, dtype=dtype, name=name)


@settings(max_examples=60)
@given(st.data(), st.integers(0, 6), st.lists(st.sampled_from(DTYPES), min_size=1, max_size=5))
def test_columns_keep_their_numbers_in_a_dtype_for_all(data, count, dtypes):
    numbers = st.integers(0, 1)
    columns = [data.draw(arrays.arrays(dtype, count, elements=numbers)) for dtype in dtypes]
    frame = pandas.DataFrame({str(place): column for place, column in enumerate(columns)})
    array = to_array(frame, "dl_train")
    assert array.shape == (count, len(columns))
    assert array.dtype == np.result_type(*dtypes)
    for found, column in zip(array.T, columns, strict=True):
        assert np.array_equal(found, column)


@pytest.mark.parametrize(
    ("column", "dtype"),
    [
        (series(1, 0, dtype="Int64"), np.int64),
        (series(1, 0, dtype="UInt8"), np.uint8),
        (series(1, 0, dtype="Float32"), np.float32),
        (series(1, 0, dtype="boolean"), np.bool_),
        (series(1, 0, dtype=object), np.int64),
        (series(True, False, dtype=object), np.bool_),
        (series(1, 0.0, dtype=object), np.float64),
        (series(np.float32(1), 0, dtype=object), np.float64),
        (series(1, 0, dtype="Sparse[int64]"), np.int64),
        (series(1 + 0j, 0), np.complex128),
        (pandas.Index([1, 0]), np.int64),
        (pandas.array([1, 0]), np.int64),
        (Series("a", np.array([1, 0]), "Int64"), np.int64),
        (Series("a", np.array([True, False], object), "Boolean"), np.bool_),
    ],
)
def test_any_column_of_numbers_is_taken(column, dtype):
    assert is_table(column)
    array = to_array(column, "dl_train")
    assert array.dtype == dtype
    assert array.tolist() == [1, 0]


def test_numbers_of_all_kinds_fit_together():
    frame = pandas.DataFrame({"flag": [True, False], "count": [3, 4], "nullable": series(1, None, dtype="Float32")})
    assert to_array(frame[["flag", "count"]], "dl").tolist() == [[1, 3], [0, 4]]
    assert to_array(frame[["flag", "count"]], "dl").dtype == np.int64
    assert np.array_equal(to_array(frame, "dl"), [[1, 3, 1], [0, 4, np.nan]], equal_nan=True)


def test_two_columns_may_have_one_name():
    frame = pandas.DataFrame([[1, 0.5], [2, 1.5]], columns=["a", "a"])
    assert to_array(frame, "dl").tolist() == [[1, 0.5], [2, 1.5]]
    assert to_array(frame.astype(float), "dl").tolist() == [[1, 0.5], [2, 1.5]]


def test_names_of_columns_may_be_of_any_kind():
    frame = pandas.DataFrame([[1, 0.5]], columns=pandas.MultiIndex.from_tuples([("a", 1), ("a", 2)]))
    assert to_array(frame, "dl").tolist() == [[1, 0.5]]
    assert to_array(frame["a"], "dl").tolist() == [[1, 0.5]]


def test_a_frame_of_one_column_stays_a_frame():
    assert to_array(pandas.DataFrame({"y": [0, 1]}), "dl").shape == (2, 1)
    assert to_array(pandas.DataFrame({"y": series(0, 1, dtype="Int64")}), "dl").shape == (2, 1)


def test_frames_of_other_libraries_are_taken_by_their_face():
    whole = Series("whole", np.array([1, 2]), "Int64")
    gaps = Series("gaps", np.array([0.5, np.nan]), "Float64", missing=[1])
    array = to_array(DataFrame(whole, gaps), "dl")
    assert np.array_equal(array, [[1, 0.5], [2, np.nan]], equal_nan=True)
    assert to_array(DataFrame(whole, whole), "dl").tolist() == [[1, 1], [2, 2]]


def test_empty_frames_have_their_shape():
    assert to_array(pandas.DataFrame({"a": [], "b": []}), "dl").shape == (0, 2)
    assert to_array(pandas.DataFrame(columns=["a", "b"]), "dl").shape == (0, 2)
    assert to_array(series(dtype=object), "dl").shape == (0,)
    with pytest.raises(DataError, match=r"^dl is empty: its DataFrame has no columns\.$"):
        to_array(pandas.DataFrame(index=[1, 2]), "dl")


DUMMIES = ", or pandas.get_dummies(frame, columns=['a']) for a column per value"
CODES = "frame['a'].astype('category').cat.codes for a number per value" + DUMMIES
DATES = "frame['a'].dt.month, .dt.dayofweek or whatever tells the net something"
GAPS = "frame['a'].fillna(0), or drop such rows first: frame.dropna()"
DAY = datetime.date(2024, 2, 29)


@pytest.mark.parametrize(
    ("column", "what", "hint"),
    [
        (series("x", "y"), "holds text", CODES),
        (series("x", 1, dtype=object), "holds text", CODES),
        (series("x", None, dtype=object), "holds text", CODES),
        (series(b"x", b"y"), "holds text", CODES),
        (
            series("x", "y", dtype="category"),
            "holds categories",
            "frame['a'].cat.codes for a number per value" + DUMMIES,
        ),
        (
            series(1, 2, dtype="category"),
            "holds categories",
            "frame['a'].cat.codes for a number per value" + DUMMIES,
        ),
        (series(DAY, DAY, dtype="datetime64[ns]"), "holds dates", DATES),
        (series(DAY, DAY, dtype="datetime64[ns, UTC]"), "holds dates", DATES),
        (series(DAY, None, dtype=object), "holds dates", DATES),
        (series(1, 2, dtype="timedelta64[ns]"), "holds durations", "frame['a'].dt.total_seconds()"),
        (series(1, None, dtype="Int64"), "lacks 1 of 2 values", GAPS),
        (series(True, None, dtype="boolean"), "lacks 1 of 2 values", GAPS),
        (series(1, None, dtype=object), "lacks 1 of 2 values", GAPS),
        (series(None, None, dtype=object), "lacks 2 of 2 values", GAPS),
        (
            series([1], [2]),
            "holds objects of the type list",
            "numpy.stack(frame['a']) if each is an array",
        ),
        (
            series(1, [2], dtype=object),
            "holds objects of the type list",
            "numpy.stack(frame['a']) if each is an array",
        ),
        (
            series(2**80, 1, dtype=object),
            "holds objects of the type int",
            "numpy.stack(frame['a']) if each is an array",
        ),
    ],
)
def test_other_columns_are_named_with_what_to_type(column, what, hint):
    for frame in (pandas.DataFrame({"a": column}), pandas.DataFrame({"b": [1.0, 2.0], "a": column})):
        with pytest.raises(DataError) as error:
            to_array(frame, "dl_train")
        assert str(error.value) == f"dl_train needs numbers, but its column 'a' {what}. Type {hint}."
    with pytest.raises(DataError) as error:
        to_array(column, "dl_train")
    hint = hint.removesuffix(DUMMIES).replace("frame['a']", "series")
    assert str(error.value) == f"dl_train needs numbers, but its Series 'a' {what}. Type {hint}."


def test_a_series_without_a_name_is_a_series():
    with pytest.raises(DataError, match=r"^dl needs numbers, but its Series holds text\. Type series\.astype"):
        to_array(series("x", name=None), "dl")


@pytest.mark.parametrize(
    ("column", "what", "hint"),
    [
        (
            Series("a", np.array(["x", "y"], object), "String"),
            "holds text",
            "frame['a'].cast(polars.Categorical).to_physical() for a number per value, "
            "or frame.to_dummies(['a']) for a column per value",
        ),
        (
            Series("a", np.array([1, np.nan]), "Int64", missing=[1]),
            "lacks 1 of 2 values",
            "frame['a'].fill_null(0), or drop such rows first: frame.drop_nulls()",
        ),
        (
            Series("a", np.array([1, 2], "datetime64[D]"), "Date"),
            "holds dates",
            "frame['a'].dt.month(), .dt.weekday() or whatever tells the net something",
        ),
    ],
)
def test_columns_of_polars_have_hints_of_their_own(column, what, hint):
    with pytest.raises(DataError) as error:
        to_array(DataFrame(column), "dl_train")
    assert str(error.value) == f"dl_train needs numbers, but its column 'a' {what}. Type {hint}."


def test_real_polars_is_taken():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"a": [1, 2], "b": [0.5, None], "c": [True, False], "d": ["x", "y"]})
    assert np.array_equal(to_array(frame[["a", "b", "c"]], "dl"), [[1, 0.5, 1], [2, np.nan, 0]], equal_nan=True)
    with pytest.raises(DataError, match="column 'd' holds text"):
        to_array(frame, "dl")
