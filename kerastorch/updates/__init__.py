"""The step of an optimizer and the clipping of gradients: the numbers of torch at little of its overhead.

For a small net most of `optimizer.step()` is Python: a frame for the profiler, another for hooks, a dozen lists and
flags, and then one operation after the other, tensor by tensor. Here the same operations are called for all tensors at
once, by functions of torch that its own optimizers call. Nothing is kept from step to step, so nothing can be stale:
what the optimizer and its groups hold is read anew. Whatever is not known to give the same bits goes the ordinary way.
"""

from kerastorch.updates.clip import clip_norm, clip_value
from kerastorch.updates.steps import Updates

__all__ = ["Updates", "clip_norm", "clip_value"]
