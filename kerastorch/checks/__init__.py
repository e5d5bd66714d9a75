"""Before the first step: clear errors for what cannot work. They look at the first batch only."""

from kerastorch.checks.arguments import enough_data, epochs, positive
from kerastorch.checks.optimizers import needs_no_closure, optimizer_fits, same_parameters
from kerastorch.checks.targets import first_batch, loss_value

__all__ = [
    "enough_data",
    "epochs",
    "first_batch",
    "loss_value",
    "needs_no_closure",
    "optimizer_fits",
    "positive",
    "same_parameters",
]
