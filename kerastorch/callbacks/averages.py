"""Averages of the weights of a net, and how they take its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from kerastorch import checkpoint
from kerastorch.errors import CheckpointError, did_you_mean
from kerastorch.run import Run
from kerastorch.shards import local

_LOW_PRECISION = (torch.float16, torch.bfloat16)


def claim(run: Run, callback: object) -> None:
    """Let a callback put averages into the net; a second one in the same run would take them for the net's own weights.

    Raises:
        ValueError: Another one does so.
    """
    holders = run.peers["averages"]
    if holders and holders[0] is not callback:
        raise ValueError(
            f"{holders[0]!r} and {callback!r} both put averaged weights into the net, which has room for one average. "
            "Leave one of them out; to compare two, such as two decays, make two calls, one with each."
        )
    holders[:] = [callback]


class Averages:
    """Averages of what is trained in a net, by name; shared weights are there once.

    What was frozen when the net was last looked at is not averaged and takes no memory; it is the net's own. Averages
    of 16-bit weights are kept in 32 bits: a small step would be lost in rounding. All that is put into the net is
    copied in place, so optimizers and views keep their tensors.

    Args:
        module: The net.
        statistics: Whether to average the running statistics of normalizations too. Other buffers never are: a mask
            that holds infinities has no average.

    Attributes:
        module: The net.
        count: Updates so far.
    """

    def __init__(self, module: nn.Module, *, statistics: bool) -> None:
        self.module = module
        self.count = 0
        self._statistics = statistics
        self._live: dict[str, Tensor] = {}
        self._averages: dict[str, Tensor] = {}  # without those that are in the net and lose nothing there
        self._raw: dict[str, Tensor] = {}  # the net's own, of what is replaced in the net at present
        self._groups: list[tuple[list[Tensor], list[Tensor]]] = []
        self.follow_net()

    @torch.no_grad()
    def follow_net(self) -> None:
        """Look the net over: parts may have been unfrozen, or moved to another device."""
        if self._raw:
            return
        known, self._groups = self._live, []
        self._live = {name: tensor for name, tensor, trained in self._tensors() if trained or name in known}
        if self.count:
            before, self._averages = self._averages, {}
            for name, tensor in self._live.items():
                self._averages[name] = before[name].to(tensor.device) if name in before else _copied(tensor)

    @torch.no_grad()
    def update(self, weight: float) -> None:
        """Let the present weights of the net count for this much; the first ones count whole."""
        if not self.count:
            self._averages = {name: _copied(tensor) for name, tensor in self._live.items()}
        else:
            self._groups = self._groups or self._grouped()
            for averages, live in self._groups:
                same = averages[0].dtype == live[0].dtype
                present = live if same else [tensor.to(averages[0].dtype) for tensor in live]
                torch._foreach_lerp_(averages, present, weight)
        self.count += 1

    @torch.no_grad()
    def put_in(self) -> None:
        """Put the averages into the net. They change places one by one, so no second copy of the net is needed."""
        if not self.count:
            return
        self._groups = []
        for name, tensor in self._live.items():  # in an order that an interrupt in the middle does not harm
            if name not in self._raw:
                self._raw[name] = tensor.detach().clone()
            if name in self._averages:
                tensor.copy_(self._averages[name])
                if self._averages[name].dtype == tensor.dtype:
                    del self._averages[name]

    @torch.no_grad()
    def take_out(self) -> None:
        """Give the net its own weights back."""
        for name, raw in list(self._raw.items()):
            tensor = self._live[name]
            if name not in self._averages:
                self._averages[name] = tensor.detach().clone()
            tensor.copy_(raw)
            del self._raw[name]

    def state_dict(self) -> dict[str, Any]:
        """Return what is not in the state_dict of the net: the averages, or the net's own while those are in it."""
        return {"count": self.count, "averages": dict(self._averages), "raw": dict(self._raw)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, in a net that has loaded its own of the same moment.

        Raises:
            CheckpointError: It holds averages of what the net does not have.
        """
        wanted = {**state["averages"], **state["raw"]}
        tensors = {name: tensor for name, tensor, _ in self._tensors()}
        unknown = [name for name in wanted if name not in tensors]
        if unknown:
            raise CheckpointError(
                f"The checkpoint holds an average of {unknown[0]!r}, which the net does not have."
                f"{did_you_mean(unknown[0], tensors)}"
            )
        self.count = state["count"]
        self._groups = []
        self._live = {name: tensor for name, tensor in tensors.items() if name in wanted}
        self._averages = _placed(state["averages"], self._live)
        self._raw = _placed(state["raw"], self._live)
        if not self.count:
            self.follow_net()

    def _tensors(self) -> Iterator[tuple[str, Tensor, bool]]:
        """Yield what could be averaged, and whether training changes it."""
        for name, parameter in self.module.named_parameters():
            yield name, parameter, parameter.requires_grad
        for place, part in self.module.named_modules() if self._statistics else ():
            if isinstance(part, _NormBase) and part.running_mean is not None and part.running_var is not None:
                prefix = f"{place}." if place else ""
                yield f"{prefix}running_mean", part.running_mean, True
                yield f"{prefix}running_var", part.running_var, True

    def _grouped(self) -> list[tuple[list[Tensor], list[Tensor]]]:
        # One kernel works on many tensors only where they are of one kind
        groups: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
        for name, tensor in self._live.items():
            averages, live = groups.setdefault((tensor.device, tensor.dtype), ([], []))
            averages.append(local(self._averages[name]))
            live.append(local(tensor))
        return list(groups.values())


def _copied(tensor: Tensor) -> Tensor:
    dtype = torch.float32 if tensor.dtype in _LOW_PRECISION else tensor.dtype
    return tensor.detach().to(dtype, copy=True)


def _placed(tensors: Mapping[str, Tensor], live: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {name: (tensors[name].to(own.device, copy=True), own) for name, own in live.items() if name in tensors}
    return {name: checkpoint.like(kept, own) for name, (kept, own) in found.items()}
