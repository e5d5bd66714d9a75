"""A device by its name."""

from __future__ import annotations

import torch

from kerastorch.launched import is_launched, local_rank, local_size


def device(spec: str | torch.device) -> torch.device:
    """Return the device of a name; `"auto"` is the accelerator that is there, else the CPU.

    Of several processes on a machine, each has the accelerator of its own number.

    Raises:
        ValueError: There is no such device, or no such kind of device.
    """
    there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if spec == "auto":
        return torch.device("cpu") if there is None else _own(there)
    try:
        wanted = torch.device(spec)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"Unknown device {spec!r}. Devices are 'auto', 'cpu', 'cuda', 'cuda:1', 'mps', 'xpu'."
        ) from error
    if wanted.type in ("cpu", "meta"):
        return wanted
    if there is None or there.type != wanted.type:
        found = "no accelerator" if there is None else f"only {there.type!r}"
        raise ValueError(
            f"The device {str(wanted)!r} is not there: torch finds {found} on this machine. Type device='auto'."
        )
    count = torch.accelerator.device_count()
    if wanted.index is not None and wanted.index >= count:
        raise ValueError(f"The device {str(wanted)!r} is not there: this machine has {count}, numbered from 0.")
    return _own(wanted)


def _own(device: torch.device) -> torch.device:
    if device.index is not None or not is_launched():
        return device
    count = torch.accelerator.device_count()
    if local_rank() >= count:
        raise ValueError(
            f"{local_size()} processes on this machine, but it has {count} devices of the kind {device.type!r}. Type "
            f"torchrun --nproc-per-node={count}, or device='cpu'."
        )
    return torch.device(device.type, local_rank())
