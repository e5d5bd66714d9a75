"""What is minimised, and what each batch adds to its mean over an epoch."""

from kerastorch.losses.base import Objective, Term, Weight
from kerastorch.losses.own import ComputedLoss, OutputLoss
from kerastorch.losses.several import SeveralLosses
from kerastorch.losses.single import Loss

__all__ = ["ComputedLoss", "Loss", "Objective", "OutputLoss", "SeveralLosses", "Term", "Weight"]
