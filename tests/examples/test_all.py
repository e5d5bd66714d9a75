import ast
from pathlib import Path

import pytest

NAMES = sorted(path.name for path in (Path(__file__).parents[2] / "examples").glob("*.py"))
PROGRAMS = ["cifar10.py", "gan_mnist.py", "mnist.py", "mnist_fast.py", "predict_image.py", "resnet34_cifar10.py"]


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_short_and_says_what_it_does(name, examples):
    text = (examples / name).read_text(encoding="utf-8")
    assert len(text.splitlines()) < 80
    assert ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("name", ["digits.py", *PROGRAMS])
def test_the_docstring_holds_the_command(name, examples):
    text = (examples / name).read_text(encoding="utf-8")
    assert f"\npython examples/{name}" in (ast.get_docstring(ast.parse(text)) or "")


@pytest.mark.parametrize("name", PROGRAMS)
def test_help(name, run_example, tmp_path):
    text = run_example(name, "--help", cwd=tmp_path)
    assert f"python examples/{name}" in text
    assert not list(tmp_path.iterdir())
    if name != "predict_image.py":
        for flag in ("--data DIR", "--epochs N", "--quick", "--device DEVICE"):
            assert flag in text
        assert "downloaded to data/" in " ".join(text.split())
