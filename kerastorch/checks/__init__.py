"""Before the first step: clear errors for what cannot work. They look at the first batch only."""

from kerastorch.checks.arguments import enough_data, epochs, one_validation, positive
from kerastorch.checks.hints import hint
from kerastorch.checks.optimizers import needs_no_closure, optimizer_fits, same_parameters, unfrozen_are_held
from kerastorch.checks.targets import first_batch, loss_value, nothing_missing
from kerastorch.checks.threads import threads_fit

__all__ = [
    "enough_data",
    "epochs",
    "first_batch",
    "hint",
    "loss_value",
    "needs_no_closure",
    "nothing_missing",
    "one_validation",
    "optimizer_fits",
    "positive",
    "same_parameters",
    "threads_fit",
    "unfrozen_are_held",
]
