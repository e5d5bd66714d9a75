import pytest
import torch

from benchmarks.export import measure, nets


@pytest.mark.parametrize("name", ["MNIST CNN", "CIFAR-10 CNN"])
def test_exported_nets_give_what_predict_gives_on_real_images(real_data, tmp_path, name):
    if torch.__version__.startswith("2.6."):
        pytest.skip("ONNX needs torch 2.7")
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    rows = measure(name, *nets()[name], real_data, tmp_path)
    assert [row["file"] for row in rows] == [".onnx", ".pt2"]
    assert all(row["difference"] <= 1e-5 * max(1, row["scale"]) for row in rows)
    assert [row["agree"] for row in rows] == [256, 256]
