import importlib.util
import re
import sys

import pytest

import kerastorch as kt


@pytest.fixture(scope="module")
def mnist_fast(examples):
    spec = importlib.util.spec_from_file_location("mnist_fast", examples / "mnist_fast.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("options", [(), ("--accumulate", 2, "--no-channels-last", "--precision", "32-true")])
def test_it_learns_with_and_without_its_options(real_data, run_example, tmp_path, options):
    arguments = ["--data", real_data, "--quick", "--epochs", 2, "--device", "cpu", *options]
    text = run_example("mnist_fast.py", *arguments, cwd=tmp_path)
    values = re.findall(r"^Epoch \d/2 - .* val_loss: [\d.]+ - val_accuracy: ([\d.]+)$", text, re.M)
    assert len(values) == 2
    assert float(values[1]) > 0.5  # after 40 or 20 steps; chance is 0.1
    last = re.fullmatch(r"[\d,]+ images per second, ([\d.]+)% right\.", text.splitlines()[-1])
    assert float(last[1]) == pytest.approx(100 * float(values[1]), abs=0.06)
    assert not list(tmp_path.iterdir())


def test_all_options_reach_compile(mnist_fast, real_data, monkeypatch):
    found = {}
    arguments = "--precision 16-mixed --accumulate 3 --no-channels-last --jit-compile --device cpu --quick"
    monkeypatch.setattr(sys, "argv", ["mnist_fast.py", "--data", str(real_data), *arguments.split()])
    monkeypatch.setattr(kt.Model, "compile", lambda model, **given: found.update(given))
    monkeypatch.setattr(kt.Model, "fit", lambda *_, **__: {"samples_per_second": [1.0], "val_accuracy": [1.0]})
    mnist_fast.main()
    names = ("device", "channels_last", "precision", "accumulate", "jit_compile")
    assert [found[name] for name in names] == ["cpu", False, "16-mixed", 3, True]


def test_the_options_are_on_by_default(mnist_fast, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mnist_fast.py"])
    parsed = mnist_fast.parse_arguments()
    assert (parsed.channels_last, parsed.precision, parsed.accumulate, parsed.jit_compile) == (
        True,
        "bf16-mixed",
        1,
        False,
    )
