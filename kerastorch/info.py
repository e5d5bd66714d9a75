"""Show what kerastorch runs on, to be pasted into a report of a bug: `python -m kerastorch.info`.

Nothing of it says whose machine it is: no paths, no names of hosts or users.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import re
import shutil
import sys
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from kerastorch import __version__
from kerastorch.cpus import usable_cpus

PACKAGES = (  # by the names that pip knows: what is always there, what kerastorch works with, what hosts a notebook
    *("numpy", "rich", "prettytable", "filelock"),
    *("torchvision", "torchmetrics", "torchdata", "triton", "timm", "torch-geometric", "transformers", "datasets"),
    *("scikit-learn", "optuna", "pandas", "matplotlib", "pillow"),
    *("safetensors", "onnx", "onnxscript", "onnxruntime"),
    *("tensorboard", "mlflow", "mlflow-skinny", "wandb"),
    *("ipython", "ipykernel", "notebook", "jupyterlab"),
)
_GIB = 2**30
_COLUMN, _WIDTH = 14, 90  # where values begin, and how wide they are


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report."""
    description = "Show versions, devices and backends, to be pasted into a report of a bug."
    argparse.ArgumentParser(prog="python -m kerastorch.info", description=description).parse_args(arguments)
    print(report())
    return 0


def report() -> str:
    """Return what kerastorch runs on, a line for each fact."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = [*_software(), *_hardware(), ("packages", ", ".join(_packages()))]
    rows += [("warning", _first_line(warning.message)) for warning in caught]  # of a driver that is too old, for one
    return "\n".join(_line(name, value) for name, value in rows)


def _line(name: str, value: str) -> str:
    """Return one line of the report, or several where it is long."""
    lines = textwrap.wrap(value, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return f"{name:{_COLUMN}}" + ("\n" + " " * _COLUMN).join(lines)


def _packages() -> Iterator[str]:
    """Yield the packages that are installed, with their versions; none is imported."""
    for name in PACKAGES:
        try:
            yield f"{name}=={importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue


def _software() -> Iterator[tuple[str, str]]:
    yield "kerastorch", __version__
    yield "torch", f"{torch.__version__}, {_built_for()}"
    yield "Python", f"{platform.python_version()} ({platform.python_implementation()})"
    library = " ".join(platform.libc_ver()).strip()
    yield "system", ", ".join(filter(None, (f"{_system()} {platform.machine()}", library)))


def _hardware() -> Iterator[tuple[str, str]]:
    capability = torch.backends.cpu.get_cpu_capability()
    yield "CPU", f"{_processor()}, {capability}"
    yield "CPUs", f"{usable_cpus()} may be used, {_counted(torch.get_num_threads(), 'thread')} of torch"
    yield "accelerators", "; ".join(_accelerators()) or "none"
    yield "backends", ", ".join(_backends())
    yield "compiler", _compiler() or "none for C++, so that jit_compile has none on the CPU"


def _built_for() -> str:
    """Say which devices this torch was built for, whether they are there or not."""
    if torch.version.cuda:
        return f"built for CUDA {torch.version.cuda}"
    if torch.version.hip:
        return f"built for ROCm {torch.version.hip}"
    accelerator = torch.accelerator.current_accelerator()
    return f"built for {accelerator.type if accelerator else 'the CPU'}"


def _system() -> str:
    if platform.system() == "Darwin":
        return f"macOS {platform.mac_ver()[0]}"
    return f"{platform.system()} {platform.release()}"


def _processor() -> str:
    try:
        model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:  # not Linux
        model = None
    return model.group(1) if model else platform.processor() or platform.machine()


def _accelerators() -> Iterator[str]:
    """Yield a line for each device; one that does not answer says why."""
    if not torch.accelerator.is_available():
        return
    kind = torch.accelerator.current_accelerator()
    for index in range(torch.accelerator.device_count()):
        device = f"{kind}:{index}"
        try:
            yield f"{device} {_properties(index)}".rstrip()
        except (RuntimeError, AssertionError) as error:  # what torch raises where a driver does not do as told
            yield f"{device} does not answer: {_first_line(error)}"


def _properties(index: int) -> str:
    """Return name, memory and capability of a device, as far as its kind knows them."""
    module: Any = torch.get_device_module()
    if not hasattr(module, "get_device_properties"):
        return ""
    properties = module.get_device_properties(index)
    facts = [str(getattr(properties, "name", ""))]
    if hasattr(properties, "total_memory"):
        facts.append(f"{properties.total_memory / _GIB:.0f} GiB")
    if hasattr(properties, "major"):
        facts.append(f"compute capability {properties.major}.{properties.minor}")
    return ", ".join(filter(None, facts))


def _backends() -> Iterator[str]:
    """Yield what of torch computes and sends."""
    computing: dict[str, Any] = {
        "MKL": torch.backends.mkl,
        "oneDNN": torch.backends.mkldnn,
        "OpenMP": torch.backends.openmp,
    }
    yield from (name for name, module in computing.items() if module.is_available())
    if torch.backends.cudnn.is_available():  # type: ignore[no-untyped-call]
        yield f"cuDNN {_cudnn()}"
    if torch.distributed.is_available():
        yield from (name for name in ("gloo", "nccl", "mpi", "ucc") if _sends_with(name))


def _cudnn() -> str:
    try:
        return str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    except RuntimeError as error:  # of two versions that do not go together
        return f"does not answer: {_first_line(error)}"


def _sends_with(backend: str) -> bool:
    return bool(getattr(torch.distributed, f"is_{backend}_available")())


def _compiler() -> str:
    names = ("cl",) if sys.platform == "win32" else ("c++", "g++", "clang++")
    return next((name for name in names if shutil.which(name)), "")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _first_line(message: Warning | str | Exception) -> str:
    return str(message).strip().partition("\n")[0]


if __name__ == "__main__":  # pragma: no cover - run by a test in a process of its own
    sys.exit(main())
