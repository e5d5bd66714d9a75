import ast
import re


def test_digits_are_learned(run_example, tmp_path):
    text = run_example("digits.py", cwd=tmp_path)
    values = ast.literal_eval(re.search(r"^{'loss': .*}$", text, re.M).group())
    assert set(values) == {"loss", "accuracy"}
    assert values["accuracy"] > 0.97

    last_epoch = re.findall(r"^\| +(\d+) .* ([\d.]+) +\|$", text, re.M)[-1]
    assert last_epoch == ("20", f"{values['accuracy']:.3f}")

    predicted = re.search(r"^predicted: (.*)$", text, re.M).group(1).split()
    true = re.search(r"^they are:  (.*)$", text, re.M).group(1).split()
    assert len(predicted) == len(true) == 10
    assert sum(p == t for p, t in zip(predicted, true, strict=True)) >= 9
    assert not list(tmp_path.iterdir())
