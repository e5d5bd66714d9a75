"""How several processes share the work: `compile(strategy=...)`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, Literal

import torch
from torch import nn

from kerastorch.errors import did_you_mean

Wrap = str | type[nn.Module] | Sequence[str | type[nn.Module]]

_KNOWN = ("ddp", "fsdp")
_TIMEOUT = 600.0  # seconds


@dataclass(frozen=True, kw_only=True)
class DDP:
    """Each process has the whole net, and a part of every batch; gradients are averaged.

    It is what several processes do if nothing else is said. All but the last two arguments are those of torch's
    `DistributedDataParallel`.

    Example:
        >>> model.compile("cross_entropy", "adamw", strategy=kt.DDP(compression="bf16"))

    Args:
        find_unused_parameters: Look in each step for parameters that the loss does not depend on; it takes time.
        static_graph: Every step uses the same parameters in the same order; torch then finds out once.
        gradient_as_bucket_view: Let gradients lie where they are sent from, which saves memory of their size.
        bucket_cap_mb: How large a message is, in MiB; torch's own choice if None.
        broadcast_buffers: Begin each step with the buffers of the main process, such as the statistics of BatchNorm.
        compression: `"bf16"` sends gradients in 16 bits, which is half the traffic; None in their own.
        sync_batch_norm: Let BatchNorm take its statistics of the whole batch, not of the part of one process.
        timeout: Seconds to wait for other processes before it is an error.

    Raises:
        ValueError: A value is out of its range.
        TypeError: It is of another kind.
    """

    find_unused_parameters: bool = False
    static_graph: bool = False
    gradient_as_bucket_view: bool = True
    bucket_cap_mb: float | None = None
    broadcast_buffers: bool = True
    compression: Literal["bf16"] | None = None
    sync_batch_norm: bool = False
    timeout: float = _TIMEOUT

    def __post_init__(self) -> None:
        _check_switches(self)
        _check_timeout(self.timeout)
        if self.bucket_cap_mb is not None and not _is_positive(self.bucket_cap_mb):
            raise ValueError(f"bucket_cap_mb is a size above 0, such as 25; got {self.bucket_cap_mb!r}.")
        if self.compression not in (None, "bf16"):
            raise ValueError(f"compression is 'bf16' or None; got {self.compression!r}.")


@dataclass(frozen=True)
class FSDP:
    """Each process has a part of every parameter, gradient and optimizer state; a net need not fit into one device.

    Parameters are put together for as long as a part of the net computes with them. The numbers are those of `DDP`.
    The net is changed in place: its parameters become DTensors of torch. An optimizer is built afterwards, so give
    `compile` what builds it: a name, a class, or a function of the parameters.

    Example:
        >>> model.compile("cross_entropy", "adamw", strategy=kt.FSDP("blocks.*"), precision="bf16-mixed")

    Args:
        wrap: Which parts of the net are put together one at a time: names, in which `*` stands for any text, as for
            `gradient_checkpointing`; or classes of modules. Give the blocks of a deep net: without it the whole net is
            put together at once, and only gradients and optimizer state are shared out all the time.
        reshard_after_forward: Give parameters back after the forward of their part, and fetch them again in backward;
            with False they stay in between, which is quicker and takes memory.
        offload: Keep parameters, gradients and optimizer state in the memory of the CPU.
        reduce_dtype: In what to add up gradients, such as `torch.bfloat16`; None: in that of the parameters, and in
            float32 for `precision="bf16-mixed"`.
        sync_batch_norm: Let BatchNorm take its statistics of the whole batch, not of the part of one process.
        timeout: Seconds to wait for other processes before it is an error.

    Raises:
        ValueError: A value is out of its range.
        TypeError: It is of another kind.
    """

    wrap: Wrap | None = None
    _: KW_ONLY
    reshard_after_forward: bool = True
    offload: bool = False
    reduce_dtype: torch.dtype | None = None
    sync_batch_norm: bool = False
    timeout: float = _TIMEOUT

    def __post_init__(self) -> None:
        _check_switches(self)
        _check_timeout(self.timeout)
        chosen = wanted(self.wrap)
        if self.wrap is not None and not (chosen and all(map(_is_choice, chosen))):
            raise TypeError(f"wrap is a name, a class of modules, or a list of them: 'blocks.*'; got {self.wrap!r}.")
        dtype = self.reduce_dtype
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise TypeError(f"reduce_dtype is a floating dtype, such as torch.float32; got {dtype!r}.")


def of(spec: Any) -> DDP | FSDP | None:
    """Return the options of what `compile` was given; None where nothing was said.

    Args:
        spec: None, `"ddp"`, `"fsdp"`, or options.

    Raises:
        ValueError: The name is unknown.
        TypeError: It is none of these.
    """
    if spec is None or isinstance(spec, DDP | FSDP):
        return spec
    if isinstance(spec, str):
        if spec.lower() not in _KNOWN:
            raise ValueError(f"Unknown strategy {spec!r}.{did_you_mean(spec, _KNOWN)} Known are 'ddp' and 'fsdp'.")
        return DDP() if spec.lower() == "ddp" else FSDP()
    called = f" Type kt.{spec.__name__}()." if spec in (DDP, FSDP) else ""
    raise TypeError(f"strategy is 'ddp', 'fsdp', kt.DDP(...) or kt.FSDP(...); got {spec!r}.{called}")


def wanted(wrap: Any) -> list[Any]:
    """Return what is to be wrapped as a list."""
    if wrap is None:
        return []
    return list(wrap) if isinstance(wrap, Sequence) and not isinstance(wrap, str) else [wrap]


def _is_choice(choice: Any) -> bool:
    return isinstance(choice, str) or (isinstance(choice, type) and issubclass(choice, nn.Module))


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _check_timeout(timeout: Any) -> None:
    if not _is_positive(timeout):
        raise ValueError(f"timeout is a number of seconds above 0; got {timeout!r}.")


def _check_switches(options: Any) -> None:
    for field in fields(options):
        value = getattr(options, field.name)
        if isinstance(field.default, bool) and not isinstance(value, bool):
            raise TypeError(f"{field.name} is True or False; got {value!r}.")
