import ast
import importlib.metadata
import os
import platform
import re
import shutil
import socket
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import kerastorch as kt
from kerastorch import info

ROOT = Path(__file__).parents[1]
PIP_NAMES = {"sklearn": "scikit-learn", "PIL": "pillow", "IPython": "ipython", "torch_geometric": "torch-geometric"}


def rows():
    """Return the report as a dict; lines that go on are put together again."""
    joined = re.sub(r"\n +", " ", info.report())
    return dict(re.split(r" {2,}", line, maxsplit=1) for line in joined.splitlines())


def test_it_tells_the_versions():
    found = rows()
    assert found["kerastorch"] == kt.__version__
    assert found["torch"].startswith(f"{torch.__version__}, built for ")
    assert found["Python"] == f"{platform.python_version()} ({platform.python_implementation()})"
    assert platform.machine() in found["system"]
    packages = dict(each.split("==") for each in found["packages"].split(", "))
    assert packages["numpy"] == importlib.metadata.version("numpy")
    assert list(packages) == [name for name in info.PACKAGES if name in packages]


def test_it_tells_the_threads_and_the_backends():
    found, threads = rows(), torch.get_num_threads()
    assert re.fullmatch(rf"\d+ may be used, {threads} threads? of torch", found["CPUs"])
    assert ("gloo" in found["backends"].split(", ")) == torch.distributed.is_gloo_available()
    assert ("MKL" in found["backends"].split(", ")) == torch.backends.mkl.is_available()


def test_it_is_narrow_enough_to_be_pasted():
    assert max(map(len, info.report().splitlines())) <= 104


def test_it_says_nothing_of_whose_machine_it_is(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "jupiter")
    monkeypatch.setattr(platform, "node", lambda: "jupiter")
    monkeypatch.setattr(info, "_processor", lambda: "CPU")  # some have a slash in their names
    for name in ("USER", "LOGNAME", "USERNAME", "HOSTNAME"):
        monkeypatch.setenv(name, "jupiter")
    monkeypatch.setenv("HOME", "/home/jupiter")
    report = info.report()
    assert "jupiter" not in report
    assert "/" not in report
    assert "\\" not in report


def test_it_imports_no_package_to_ask_for_its_version(run_program):
    program = """
        import sys
        from kerastorch import info
        before = set(sys.modules)
        info.report()
        new = {name.partition(".")[0] for name in set(sys.modules) - before}
        print(sorted(new & {"pandas", "matplotlib", "sklearn"}))
    """
    assert run_program(program).ended() == (0, "[]\n", "")


def test_it_is_a_command(run_program):
    program = """
        import runpy, warnings
        warnings.simplefilter("error")
        runpy.run_module("kerastorch.info", run_name="__main__", alter_sys=True)
    """
    code, out, err = run_program(program).ended()
    assert (code, err) == (0, "")
    assert out.startswith(f"kerastorch    {kt.__version__}\ntorch         {torch.__version__}, ")
    code, out, err = run_program(program, "--help").ended()
    assert code == 0
    assert "to be pasted into a report of a bug" in out
    assert run_program(program, "more").ended()[0] == 2


def test_main_prints_the_report(capsys):
    assert info.main([]) == 0
    assert capsys.readouterr().out == info.report() + "\n"


def needed():
    """Yield the packages that kerastorch asks for by `errors.needs`, by the names that pip knows."""
    for path in sorted((ROOT / "kerastorch").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name("needs") | ast.Attribute(attr="needs"), args=[ast.Constant(package), *_]):
                    install = [each.value for each in node.keywords if each.arg == "install"]
                    known = [each.value for each in install if isinstance(each, ast.Constant)]
                    package = package.partition(".")[0]
                    yield known[0] if known else PIP_NAMES.get(package, package)


def test_every_package_that_can_be_asked_for_is_listed():
    found = set(needed())
    assert {"matplotlib", "tensorboard", "safetensors"} <= found
    assert found - set(info.PACKAGES) == set()
    core = re.search(r"^dependencies = (\[.*?\])", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    names = {re.split(r"[<>=]", each)[0] for each in ast.literal_eval(core.group(1))}
    assert "torch" in names
    assert names - {"torch"} <= set(info.PACKAGES)


def test_a_package_that_is_not_there_is_left_out(monkeypatch):
    monkeypatch.setattr(info, "PACKAGES", ("numpy", "no-such-package-of-ours", "rich"))
    names = [each.partition("==")[0] for each in rows()["packages"].split(", ")]
    assert names == ["numpy", "rich"]


@pytest.fixture
def accelerator(monkeypatch):
    """A function that lets the machine seem to have accelerators; `properties` is what their module knows of each."""

    def pretend(kind, count, properties=None):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
        module = SimpleNamespace() if properties is None else SimpleNamespace(get_device_properties=properties)
        monkeypatch.setattr(torch, "get_device_module", lambda: module)

    return pretend


def test_no_accelerator(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert rows()["accelerators"] == "none"


def test_accelerators_have_names_memory_and_capability(accelerator):
    properties = [
        SimpleNamespace(name="NVIDIA H100", total_memory=80 * 2**30, major=9, minor=0),
        SimpleNamespace(name="NVIDIA L4", total_memory=24 * 2**30, major=8, minor=9),
    ]
    accelerator("cuda", 2, lambda index: properties[index])
    assert rows()["accelerators"] == (
        "cuda:0 NVIDIA H100, 80 GiB, compute capability 9.0; cuda:1 NVIDIA L4, 24 GiB, compute capability 8.9"
    )


def test_an_accelerator_that_knows_nothing_of_itself(accelerator):
    accelerator("mps", 1)
    assert rows()["accelerators"] == "mps:0"
    accelerator("xpu", 1, lambda index: SimpleNamespace(name="Arc"))
    assert rows()["accelerators"] == "xpu:0 Arc"


def test_a_driver_that_fails_or_warns_is_told_of_and_stops_nothing(accelerator):
    def fails(index):
        warnings.warn("The driver is too old.\nUpdate it.", UserWarning, stacklevel=1)
        raise RuntimeError("CUDA error: no kernel image\nCompile with ...")

    accelerator("cuda", 1, fails)
    found = rows()
    assert found["accelerators"] == "cuda:0 does not answer: CUDA error: no kernel image"
    assert found["warning"] == "The driver is too old."


@pytest.mark.parametrize(
    ("cuda", "hip", "there", "expected"),
    [
        ("12.4", None, None, "CUDA 12.4"),
        (None, "6.2", None, "ROCm 6.2"),
        (None, None, torch.device("mps"), "mps"),
        (None, None, None, "the CPU"),
    ],
)
def test_what_torch_was_built_for(monkeypatch, cuda, hip, there, expected):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: there)
    assert rows()["torch"] == f"{torch.__version__}, built for {expected}"


def test_a_torch_without_processes_or_cudnn(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: False)
    assert set(rows()["backends"].split(", ")) <= {"MKL", "oneDNN", "OpenMP"}


@pytest.mark.parametrize(("version", "expected"), [(90100, "cuDNN 90100"), (None, "cuDNN does not answer: too old")])
def test_cudnn(monkeypatch, version, expected):
    def tell():
        if version is None:
            raise RuntimeError("too old\nreally")
        return version

    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "version", tell)
    assert expected in rows()["backends"].split(", ")


def test_no_compiler(monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)
    assert rows()["compiler"] == "none for C++, so that jit_compile has none on the CPU"
    monkeypatch.setattr(shutil, "which", {"cl": "cl.exe", "c++": None}.get)
    monkeypatch.setattr(sys, "platform", "win32")
    assert info._compiler() == "cl"


def test_other_systems(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert rows()["system"] == "macOS 15.1 arm64"


def test_the_name_of_the_processor_elsewhere(monkeypatch):
    def missing(*arguments, **options):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert info._processor() == "arm"
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert info._processor() == "arm64"
