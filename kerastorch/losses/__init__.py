"""What is minimised, and what each batch adds to its mean over an epoch."""

from kerastorch.losses.single import Loss, Weight

__all__ = ["Loss", "Weight"]
