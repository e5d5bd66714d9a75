import re

SUMMARY = """\
----------------------------------------------------------------
        Layer (type)               Output Shape         Param #
================================================================
            Conv2d-1           [-1, 32, 30, 30]             320
         MaxPool2d-2           [-1, 32, 15, 15]               0
            Conv2d-3           [-1, 64, 11, 11]          51,264
         MaxPool2d-4             [-1, 64, 5, 5]               0
         Dropout2d-5             [-1, 64, 5, 5]               0
 AdaptiveMaxPool2d-6             [-1, 64, 1, 1]               0
           Flatten-7                   [-1, 64]               0
            Linear-8                   [-1, 32]           2,080
              ReLU-9                   [-1, 32]               0
           Linear-10                   [-1, 10]             330
================================================================
Total params: 53,994
Trainable params: 53,994
Non-trainable params: 0
----------------------------------------------------------------
Input size (MB): 0.003906
Forward/backward pass size (MB): 0.359695
Params size (MB): 0.205971
Estimated Total Size (MB): 0.569572
----------------------------------------------------------------
"""


def test_mnist_prints_the_summary_and_the_text_of_torchkeras(real_data, run_example, tmp_path):
    arguments = ["--data", real_data, "--quick", "--epochs", 2, "--device", "cpu"]
    text = run_example("mnist.py", *arguments, cwd=tmp_path)
    assert text.startswith("CnnModel(\n  (layers): ModuleList(\n")
    assert SUMMARY in text

    log = text[text.index("Start Training ...\n") : text.index("Finished Training...\n")]
    assert len(re.findall(r"^={80}\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$", log, re.M)) == 3
    assert (
        re.findall(r"^{'step': (\d+), 'loss': [\d.]+, 'accuracy': [\d.]+}$", log, re.M) == ["5", "10", "15", "20"] * 2
    )
    assert log.count("| epoch |  loss | accuracy | val_loss | val_accuracy |\n") == 2
    rows = re.findall(r"^\| +(\d) +\| +[\d.]+ \| +([\d.]+) +\| +[\d.]+ +\| +([\d.]+) +\|$", log, re.M)
    assert [row[0] for row in rows] == ["1", "2"]
    assert float(rows[1][2]) > 0.5  # after 40 steps; chance is 0.1
    assert not list(tmp_path.iterdir())
