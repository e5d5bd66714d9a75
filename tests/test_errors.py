import sys
import traceback

import pytest

from kerastorch import errors


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.NotCompiledError, RuntimeError),
        (errors.DataError, ValueError),
        (errors.MismatchError, ValueError),
        (errors.NonFiniteError, RuntimeError),
        (errors.CheckpointError, RuntimeError),
        (errors.MissingPackageError, ImportError),
    ],
)
def test_every_error_is_ours_and_pythons(kind, builtin):
    assert issubclass(kind, errors.KerastorchError)
    assert issubclass(kind, builtin)


@pytest.mark.parametrize(
    ("got", "known", "text"),
    [
        ("cross_entrpy", ["mse_loss", "cross_entropy"], " Did you mean 'cross_entropy'?"),
        ("adm", ["SGD", "Adam"], " Did you mean 'Adam'?"),
        ("ACURACY", ["accuracy"], " Did you mean 'accuracy'?"),
        ("xyz", ["accuracy", "loss"], ""),
        ("loss", [], ""),
        ("", ["loss"], ""),
    ],
)
def test_a_close_name_is_suggested_as_it_is_spelt(got, known, text):
    assert errors.did_you_mean(got, known) == text
    assert errors.did_you_mean(got, iter(known)) == text


def test_a_package_that_is_there_is_imported():
    assert errors.needs("json", purpose="A test") is sys.modules["json"]
    assert errors.needs("os.path", purpose="A test").join("a", "b")


@pytest.mark.parametrize(
    ("package", "install", "text"),
    [
        ("missing_package", None, "The plot needs the package 'missing_package'. Type: pip install missing_package"),
        (
            "missing_package.part",
            None,
            "The plot needs the package 'missing_package'. Type: pip install missing_package",
        ),
        ("missing_package.part", "other", "The plot needs the package 'other'. Type: pip install other"),
        ("os.missing", "other", "The plot needs the package 'other'. Type: pip install other"),
    ],
)
def test_a_package_that_is_missing_is_named_with_what_to_type(package, install, text):
    with pytest.raises(errors.MissingPackageError) as error:
        errors.needs(package, purpose="The plot", install=install)
    assert str(error.value) == text
    assert isinstance(error.value.__cause__, ModuleNotFoundError)


def test_an_error_inside_a_package_is_its_own(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("raise ValueError('inside')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"^inside$"):
        errors.needs("broken_package", purpose="A test")


def test_a_note_ends_the_traceback(capsys):
    error = ValueError("first")
    errors.add_note(error, "epoch 1, batch 2")
    assert error.__notes__ == ["epoch 1, batch 2"]
    if sys.version_info >= (3, 11):
        assert "".join(traceback.format_exception(error)).endswith("ValueError: first\nepoch 1, batch 2\n")
    else:  # its tracebacks have no notes
        assert capsys.readouterr().err == "epoch 1, batch 2\n"
