"""A device by its name."""

from __future__ import annotations

import torch


def device(spec: str | torch.device) -> torch.device:
    """Return the device of a name; `"auto"` is the accelerator that is there, else the CPU.

    Raises:
        ValueError: There is no such device, or no such kind of device.
    """
    there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if spec == "auto":
        return there or torch.device("cpu")
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
    return wanted
