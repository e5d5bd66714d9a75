import subprocess
import sys

import pytest

import kerastorch as kt


def test_a_callback_is_imported_when_it_is_first_used():
    program = """
        import sys, kerastorch as kt
        assert "kerastorch.callbacks.early_stopping" not in sys.modules
        one = kt.callbacks.EarlyStopping
        assert "kerastorch.callbacks.early_stopping" in sys.modules
        from kerastorch.callbacks import EarlyStopping
        assert EarlyStopping is one is vars(kt.callbacks)["EarlyStopping"]
        from kerastorch.callbacks import *
        assert CSVLogger.__module__ == "kerastorch.callbacks.csv_logger"
    """
    lines = "\n".join(line.strip() for line in program.splitlines())
    subprocess.run([sys.executable, "-c", lines], check=True)


def test_a_misspelt_name_is_an_error_with_the_right_one():
    with pytest.raises(AttributeError, match=r"has no attribute 'EarlyStoping'\. Did you mean 'EarlyStopping'\?"):
        kt.callbacks.EarlyStoping  # noqa: B018


def test_no_attribute_is_none_of_a_package():
    assert not hasattr(kt.callbacks, "__wrapped__")
