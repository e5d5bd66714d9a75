from pathlib import Path

import pytest
import torch

from kerastorch import checkpoint
from kerastorch.inspect import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    checkpoint.save(
        {"model": {"weight": torch.ones(3)}, "progress": {"epoch": 2, "batch": 0, "step": 8}}, tmp_path / "b.pt"
    )
    checkpoint.save_weights({"weight": torch.ones(3)}, tmp_path / "a.safetensors")
    (tmp_path / "notes.txt").write_text("no checkpoint")
    (tmp_path / ".b.pt.123.tmp").write_bytes(b"half")
    (tmp_path / ".hidden.pt").write_bytes(b"half")
    (tmp_path / "folder.pt").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_are_shown(folder, capsys):
    assert main(["b.pt", "a.safetensors"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == ["b.pt", "a.safetensors"]
    assert "  progress    2 epochs, 8 steps" in lines
    assert "  kind        safetensors weights" in lines


def test_a_directory_stands_for_the_checkpoints_in_it(folder, capsys):
    assert main([str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [Path(line).name for line in lines if not line.startswith(" ")] == ["a.safetensors", "b.pt"]


def test_a_damaged_file_is_an_error(folder, capsys):
    (folder / "b.pt").write_bytes((folder / "b.pt").read_bytes()[:-5])
    assert main([".", "a.safetensors"]) == 1
    output = capsys.readouterr().out
    assert "DAMAGED: its end is missing" in output
    assert output.count("whole") == 2


def test_a_file_that_is_missing_is_an_error(folder, capsys):
    assert main(["c.pt", "b.pt"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["There is no file c.pt. Did you mean 'b.pt'?", "b.pt"]


def test_a_directory_without_any_is_an_error(folder, capsys):
    assert main(["folder.pt"]) == 1
    assert capsys.readouterr().out == "There is no checkpoint in folder.pt.\n"


def test_it_is_a_command(folder, run_program):
    program = """
        import runpy, sys, warnings
        warnings.simplefilter("error")  # runpy's own too, which tells of a module that was imported before
        runpy.run_module("kerastorch.inspect", run_name="__main__", alter_sys=True)
    """
    code, out, err = run_program(program, "b.pt", "nothing").ended()
    assert (code, err) == (1, "")
    assert out.startswith("b.pt\n  kind        training state\n  state       whole\n")
