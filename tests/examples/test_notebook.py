import os
import re

import nbformat
import pytest
from nbclient import NotebookClient

from tests.programs import environment

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the clients of Jupyter


def run(path, folder):
    """Run a notebook in a real kernel; return the outputs of each cell of code, by its first line."""
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code), "store it without outputs"
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute(env=os.environ | environment())
    return {cell.source.partition("\n")[0]: cell.outputs for cell in code}


@pytest.fixture(scope="module")
def digits(examples, tmp_path_factory):
    return list(run(examples / "notebooks" / "digits.ipynb", tmp_path_factory.mktemp("digits")).values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mnist")


@pytest.fixture(scope="module")
def mnist(examples, real_data, folder):
    return run(examples / "notebooks" / "mnist.ipynb", folder)


def kinds(output):
    return set(output.get("data", {})) - {"text/plain"}


def rows(table):
    """Return the lines of a table as lists of words: its head, and one for each epoch."""
    return [line.split() for line in table.data["text/plain"].splitlines()]


def text(outputs):
    return "".join(output.text for output in outputs if output.output_type == "stream")


def test_a_fit_leaves_one_bar_one_table_and_one_picture(digits):
    bar, table, picture = digits[1]
    assert bar.data["text/plain"].startswith("12 epochs in")
    head, *epochs = rows(table)
    assert head == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds"]
    assert [row[0] for row in epochs] == [f"{epoch}/12" for epoch in range(1, 13)]
    assert float(epochs[-1][4]) > 0.93
    assert kinds(picture) == {"image/png"}


def test_a_figure_at_the_end_of_a_cell_is_shown(digits):
    for place in (0, 2, 3):
        (picture,) = digits[place]
        assert kinds(picture) == {"image/png"}
        assert picture.output_type == "execute_result"


def test_mnist_is_trained_on_with_curves(mnist):
    (samples,) = mnist["kt.plot.samples(train, n=10)"]
    assert kinds(samples) == {"image/png"}
    compiles = 'model.compile(loss="cross_entropy", optimizer="adam", metrics=["accuracy"])'
    split, bar, table, curves = mnist[compiles]
    assert split.text == "288 samples of dl_train to train on, 32 to validate on.\n"
    assert bar.data["text/plain"].startswith("4 epochs in")
    assert [row[0] for row in rows(table)] == ["epoch", "1/4", "2/4", "3/4", "4/4"]
    assert float(rows(table)[-1][1]) < float(rows(table)[1][1]), "the loss falls"
    assert kinds(curves) == {"image/png"}


def test_mnist_is_looked_at_afterwards(mnist):
    (values,) = mnist["model.evaluate(test)"]
    assert re.fullmatch(r"\{'loss': [\d.]+, 'accuracy': [\d.]+\}", values.data["text/plain"])
    for cell in ('kt.plot.predictions(model, test, only="wrong", n=10)', "kt.plot.confusion_matrix(model, test)"):
        (picture,) = mnist[cell]
        assert kinds(picture) == {"image/png"}


def test_mnist_leaves_a_saved_and_an_exported_net(mnist, folder):
    (classes,) = mnist['model.save("mnist.pt")']
    assert "'7 - seven'" in classes.data["text/plain"]
    assert "on 160 given samples" in text(mnist['exported = model.export("mnist.onnx", test)'])
    assert re.fullmatch(r"It says \d; it is a 7\.\n", text(mnist["import onnxruntime"]))
    assert {path.name for path in folder.iterdir()} == {"mnist.pt", "mnist.onnx"}
