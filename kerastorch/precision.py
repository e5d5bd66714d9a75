"""The precision of a step: what is computed in 16 bits, and how its gradients are kept from vanishing."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kerastorch.errors import NonFiniteError, did_you_mean
from kerastorch.tree import map_leaves

Precision = Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true"]

_MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
_HALVES = (torch.float16, torch.bfloat16)
_SMALLEST_SCALE = 2.0**-12  # 28 steps in a row are skipped on the way there from 65536: no scale will help
_MEANT = {
    **dict.fromkeys(("16", "fp16", "float16", "half", "mixed_float16"), "16-mixed"),
    **dict.fromkeys(("bf16", "bfloat16", "mixed_bfloat16"), "bf16-mixed"),
    **dict.fromkeys(("32", "fp32", "float32"), "32-true"),
}


def check(spec: Any) -> Precision:
    """Return the precision of a name.

    Raises:
        ValueError: There is none of this name.
    """
    known = get_args(Precision)
    if isinstance(spec, str) and spec in known:
        return cast(Precision, spec)
    got = str(spec).removeprefix("torch.").lower()  # torch.bfloat16 and 16 are understood too
    meant = f" Did you mean {_MEANT[got]!r}?" if got in _MEANT else did_you_mean(got, known)
    raise ValueError(f"Unknown precision {spec!r}.{meant} Known are {', '.join(map(repr, known))}.")


class Casting:
    """The steps of one net and one optimizer, in a precision.

    - `"32-true"`: whatever the net is. Nothing is done.
    - `"bf16-mixed"`: forward and loss under `torch.autocast`; parameters, gradients and optimizer stay in float32.
    - `"16-mixed"`: the same with float16, whose gradients would vanish: the loss is scaled up before backward. Where
      gradients overflow the step is skipped and the scale is halved. To know that, each step waits for the device, as
      `torch.amp.GradScaler` does itself for any optimizer that is not fused; `"bf16-mixed"` never waits.
    - `"bf16-true"`: parameters, buffers and inputs in bfloat16, and so are gradients and the state of the optimizer.
      It takes half the memory; a change below 0.4 % of a weight is lost, so small learning rates learn nothing.

    Args:
        precision: One of these.

    Attributes:
        casts: Whether `autocast` does anything; the caller may do without it otherwise.
        skipped: Steps that were skipped so far.

    Raises:
        ValueError: The precision is unknown.
    """

    def __init__(self, precision: Precision = "32-true") -> None:
        self.precision = check(precision)
        self.casts = precision in _MIXED
        self.skipped = 0
        self._device: torch.device | None = None
        self._context: AbstractContextManager[Any] = contextlib.nullcontext()
        self._scaler: torch.amp.GradScaler | None = None
        self._scaling: dict[str, Any] = {}  # the scaler's state, while there is no scaler
        self._stand_in: _StandIn | None = None

    def __repr__(self) -> str:
        return f"Casting({self.precision!r})"

    def __getstate__(self) -> dict[str, Any]:
        # A copy made in the middle of a step is not in the middle; its first `begin` makes what it needs.
        blank = {"_device": None, "_context": contextlib.nullcontext(), "_scaler": None, "_stand_in": None}
        return {**vars(self), **blank, "_scaling": self._scaling_now()}

    def begin(self, device: torch.device) -> None:
        """Get ready for a device, and try it out; for the second time on the same device at no cost.

        Raises:
            ValueError: The device cannot compute in this precision.
        """
        if self.precision == "32-true" or device == self._device:
            return
        _require(self.precision, device)
        self._scaling = self._scaling_now()
        if self.casts:
            self._context = _Reentrant(torch.autocast(device.type, _MIXED[self.precision]))
        if self.precision == "16-mixed":
            self._scaler = _scaler(device, self._scaling)
        self._device = device

    def convert(self, module: nn.Module) -> None:
        """Bring parameters and floating buffers to bfloat16 where the precision says so; they stay the same objects.

        Raises:
            ValueError: The net cannot be trained in this precision.
        """
        if self.precision == "bf16-true":
            _refuse(module, torch.Tensor.is_complex, "complex numbers have no bfloat16. Type precision='32-true'.")
            module.to(torch.bfloat16)
        elif self.precision == "16-mixed":
            advice = "its gradients cannot be scaled back in float16. Type net.float(), or precision='32-true'."
            _refuse(module, lambda parameter: parameter.dtype == torch.float16, advice)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context for forward and loss; it is one object, and may be entered again inside itself."""
        return self._context

    def fresh(self) -> AbstractContextManager[Any]:
        """Return a context of torch's own, which a compiler understands."""
        device = self._device
        return (
            torch.autocast(device.type, _MIXED[self.precision]) if self.casts and device else contextlib.nullcontext()
        )

    def inputs(self, x: Any) -> Any:
        """Return inputs as the net takes them: floating ones in bfloat16 for `"bf16-true"`. Targets stay."""
        return map_leaves(_to_bfloat16, x) if self.precision == "bf16-true" else x

    def outputs(self, output: Any) -> Any:
        """Return outputs for the user, under mixed precision in float32: NumPy, for one, has no bfloat16."""
        return map_leaves(_widened, output) if self.casts else output

    def scaled(self, loss: Tensor) -> Tensor:
        """Return what to differentiate: with a scaler, gradients are too large until `unscale`."""
        if self._stand_in is not None:  # an error came before the last step
            self._stand_in, self._scaler = None, _scaler(cast(torch.device, self._device), self._scaling_now())
        return loss if self._scaler is None else self._scaler.scale(loss)

    def unscale(self, optimizer: Optimizer) -> None:
        """Divide complete gradients by the scale, once before each step; without a wait for the device."""
        if self._scaler is not None:
            self._stand_in = _StandIn(optimizer.param_groups)
            self._scaler.unscale_(cast(Optimizer, self._stand_in))

    def step(self, optimizer: Optimizer, update: Callable[[], Any] | None = None) -> bool:
        """Update the parameters; return False where gradients overflowed and the step was skipped.

        Args:
            optimizer: Whose parameters.
            update: What to do instead of `optimizer.step`.

        Raises:
            NonFiniteError: Gradients overflow however small the scale is.
        """
        update = update or optimizer.step
        if self._scaler is None:
            update()
            return True
        stand_in, self._stand_in = self._stand_in or _StandIn(optimizer.param_groups), None
        stand_in.update = update
        self._scaler.step(cast(Optimizer, stand_in))  # the only sync: it looks whether gradients overflowed
        self._scaler.update()
        if not stand_in.has_stepped:
            self.skipped += 1
            self._give_up_at_the_bottom()
        return stand_in.has_stepped

    @property
    def scale(self) -> float:
        """By how much the loss is multiplied; reading it waits for the device."""
        return 1.0 if self._scaler is None else self._scaler.get_scale()

    def note(self) -> str:
        """Say that a step was skipped, and how it goes on."""
        return (
            f"{self.precision}: a step was skipped, its gradients overflowed; the scale is now {self.scale:g}. "
            "A few of these are usual."
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a training needs to go on exactly: the scaler's state; nothing without one."""
        scaling = self._scaling_now()
        return {"scaler": scaling, "skipped": self.skipped} if scaling else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; without a scaler, on either side, there is nothing to do."""
        if self.precision != "16-mixed" or not state:
            return
        self.skipped = state["skipped"]
        self._scaling = dict(state["scaler"])
        if self._scaler is not None:
            self._scaler.load_state_dict(self._scaling)

    def _scaling_now(self) -> dict[str, Any]:
        return self._scaling if self._scaler is None else self._scaler.state_dict()

    def _give_up_at_the_bottom(self) -> None:
        if self.scale < _SMALLEST_SCALE:
            raise NonFiniteError(
                f"{self.precision}: the gradients overflow however small the scale is, now {self.scale:g}; the weights "
                "are those of the last good step. Type precision='bf16-mixed', or '32-true' to see whether it is that."
            )


class _Reentrant:
    """A context that may be entered again inside itself; `torch.autocast` would then stay on in the end."""

    def __init__(self, context: AbstractContextManager[Any]) -> None:
        self._context = context
        self._depth = 0

    def __enter__(self) -> None:
        if not self._depth:
            self._context.__enter__()
        self._depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._depth -= 1
        if not self._depth:
            self._context.__exit__(kind, error, traceback)


class _StandIn:
    """What a scaler takes for the optimizer of one step: it has `param_groups`, and a `step` that tells of itself.

    So the wait by which the scaler decides is the only one; comparing `get_scale()` would be two more.
    """

    def __init__(self, param_groups: list[dict[str, Any]]) -> None:
        self.param_groups = param_groups
        self.update: Callable[[], Any] | None = None
        self.has_stepped = False

    def step(self) -> None:
        """Update the parameters."""
        if self.update is not None:
            self.update()
        self.has_stepped = True


def _require(precision: Precision, device: torch.device) -> None:
    if precision != "16-mixed" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        name = torch.cuda.get_device_name(device)
        raise ValueError(f"precision={precision!r}: the GPU {name} has no bfloat16. Type precision='16-mixed'.")
    try:
        _try_out(precision, device)
    except (RuntimeError, NotImplementedError, TypeError, UserWarning) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"precision={precision!r} does not work on {device.type!r} with torch {torch.__version__}. "
            f"Type precision='32-true'. torch says: {reason}"
        ) from error


def _try_out(precision: Precision, device: torch.device) -> None:
    """Make a step of the smallest kind; no table of devices and versions would know as much."""
    dtype = _MIXED.get(precision, torch.bfloat16)
    with warnings.catch_warnings(), torch.inference_mode(False), torch.enable_grad():
        warnings.simplefilter("error", UserWarning)  # autocast only warns of what it cannot do
        if precision == "bf16-true":
            weight = torch.ones(1, 1, dtype=dtype, device=device, requires_grad=True)
            (weight @ weight).sum().backward()  # type: ignore[no-untyped-call]
            return
        weight = torch.ones(1, 1, dtype=torch.float32, device=device, requires_grad=True)
        with torch.autocast(device.type, dtype):
            output = weight @ weight
        if output.dtype != dtype:
            raise RuntimeError(f"autocast computes in {output.dtype}, not in {dtype}")
        scaler = _scaler(device, {}) if precision == "16-mixed" else None
        loss = output.float().sum()
        (loss if scaler is None else scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
        if scaler is not None:
            scaler.unscale_(cast(Optimizer, _StandIn([{"params": [weight]}])))


def _scaler(device: torch.device, state: dict[str, Any]) -> torch.amp.GradScaler:
    scaler = torch.amp.GradScaler(device.type)
    if state:
        scaler.load_state_dict(state)
    return scaler


def _refuse(module: nn.Module, is_wrong: Callable[[Tensor], bool], why: str) -> None:
    for name, parameter in module.named_parameters():
        if is_wrong(parameter):
            dtype = str(parameter.dtype).removeprefix("torch.")
            raise ValueError(f"The parameter {name!r} is {dtype}; {why}")


def _to_bfloat16(leaf: Any) -> Any:
    data = getattr(leaf, "data", None)  # a PackedSequence has it too
    return leaf.to(torch.bfloat16) if isinstance(data, Tensor) and data.is_floating_point() else leaf


def _widened(leaf: Any) -> Any:
    data = getattr(leaf, "data", None)
    return leaf.to(torch.float32) if isinstance(data, Tensor) and data.dtype in _HALVES else leaf
