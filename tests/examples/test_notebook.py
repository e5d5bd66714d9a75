import nbformat
import pytest
from nbclient import NotebookClient


@pytest.fixture(scope="module")
def outputs(examples):
    """Run the notebook in a real kernel; return the outputs of each cell of code."""
    notebook = nbformat.read(examples / "notebooks" / "digits.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "store it without outputs"
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def kinds(output):
    return set(output.get("data", {})) - {"text/plain"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the clients of Jupyter
def test_a_fit_leaves_one_bar_one_table_and_one_picture(outputs):
    bar, table, picture = outputs[1]
    assert bar.data["text/plain"].startswith("12 epochs in")
    lines = table.data["text/plain"].splitlines()
    assert lines[0].split() == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds"]
    assert [line.split()[0] for line in lines[1:]] == [f"{epoch}/12" for epoch in range(1, 13)]
    assert float(lines[-1].split()[4]) > 0.93
    assert kinds(picture) == {"image/png"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_figure_at_the_end_of_a_cell_is_shown(outputs):
    for place in (0, 2, 3):
        (picture,) = outputs[place]
        assert kinds(picture) == {"image/png"}
        assert picture.output_type == "execute_result"
