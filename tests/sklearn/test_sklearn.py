import sys

import pytest

import kerastorch as kt
from kerastorch.errors import MissingPackageError


def test_without_scikit_learn_it_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("kerastorch.sklearn")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(kt, "sklearn", raising=False)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingPackageError, match=r"kerastorch\.sklearn needs the package 'scikit-learn'\. Type: pip"):
        _ = kt.sklearn
