"""What to type where torch itself has found a mistake. Nothing is looked at before there is an error."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from kerastorch.data.batch import Batch
from kerastorch.errors import KerastorchError
from kerastorch.tree import describe, tensors

Hint = Callable[["re.Match[str]", Any, nn.Module], str | None]


def hint(error: BaseException, batch: Batch | None, module: nn.Module) -> str | None:
    """Say in one line what usually leads to such an error, and what to type; None for an error that we do not know.

    Args:
        error: What torch has raised.
        batch: The batch that was worked on, if any.
        module: The net.
    """
    if isinstance(error, KerastorchError):
        return None  # says itself what to type
    text = str(error)
    for pattern, found in _HINTS:
        match = re.search(pattern, text)
        if match:
            return found if isinstance(found, str) else found(match, None if batch is None else batch.x, module)
    return None


def _float_dtype(module: nn.Module) -> str:
    dtypes = {str(part.dtype).removeprefix("torch.") for part in module.parameters() if part.is_floating_point()}
    return " and ".join(sorted(dtypes)) or "float32"


def _dtype(match: re.Match[str], x: Any, module: nn.Module) -> str | None:
    wanted = _float_dtype(module)
    strange = next((part for part in tensors(x) if str(part.dtype) != f"torch.{wanted}"), None)
    if strange is None:
        return None
    got = str(strange.dtype).removeprefix("torch.")
    scaled = " / 255 for pixels" if got == "uint8" else ""
    return (
        f"The weights of the net are {wanted}, the inputs {got}. Type x.float(){scaled}, or x.astype('float32') for "
        "arrays."
    )


def _channels(match: re.Match[str], x: Any, module: nn.Module) -> str | None:
    wanted = int(match[1])
    if not isinstance(x, Tensor):
        return None
    got = f"The first convolution takes {wanted} channels, in dimension 1; the inputs are {describe(x)}."
    if x.ndim == 4 and x.shape[-1] == wanted:
        return f"{got} They end with the channels: type x.permute(0, 3, 1, 2)."
    if x.ndim == 3 and wanted == 1:
        return f"{got} They have no dimension for it: type x[:, None]."
    return got if x.ndim == 4 else None


def _no_channels(match: re.Match[str], x: Any, module: nn.Module) -> str | None:
    if not isinstance(x, Tensor):
        return None
    return (
        f"A convolution takes (N, channels, height, width); the inputs are {describe(x)}. Type x.reshape(-1, 1, 28, "
        "28), with the height and width of yours."
    )


def _features(match: re.Match[str], x: Any, module: nn.Module) -> str | None:
    rows, got, wanted = int(match[1]), int(match[2]), int(match[3])
    if isinstance(x, Tensor) and x.ndim > 2 and x[0].numel() == wanted and rows == x.numel() // got:
        return f"nn.Linear({wanted}, ...) takes flat inputs; these are {describe(x)}. Put nn.Flatten() before it."
    return (
        f"A layer nn.Linear({wanted}, ...) was given {got} features. Type nn.Linear({got}, ...), or nn.LazyLinear(...)."
    )


def _arguments(match: re.Match[str], x: Any, module: nn.Module) -> str | None:
    if x is None:
        return None
    return (
        f"The inputs are {describe(x)}. A tuple is spread over the parameters of forward, a dict over its names, "
        "anything else is the first parameter: several inputs are ((a, b), y) or ({'a': a, 'b': b}, y)."
    )


def _unused(match: re.Match[str], x: Any, module: nn.Module) -> str | None:
    trained = [name for name, part in module.named_parameters() if part.requires_grad]
    names = match[2].strip().split(", ")
    if match[1]:  # their numbers
        names = [trained[int(number)] for number in match[2].split() if int(number) < len(trained)]
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} others" if len(names) > 4 else "")
    return (
        f"The loss did not depend on {shown}. Use them in forward, freeze them by requires_grad_(False), or where that "
        "differs from batch to batch type model.compile(..., strategy=kt.DDP(find_unused_parameters=True))."
    )


_ASSERT = (
    "An index was out of range on the GPU, mostly a label below 0 or not below the number of outputs, or a token not "
    "below the size of an nn.Embedding. The GPU tells late, so the line above need not be the place. Type "
    "model.compile(..., device='cpu') in a new process: there the error names the value. This process cannot use the "
    "GPU any more."
)
_HINTS: list[tuple[str, str | Hint]] = [
    (r"must have the same dtype|should be the same|expected scalar type|expected m1 and m2 to have the same", _dtype),
    (r"expected input\[.*\] to have (\d+) channels", _channels),
    (r"input to conv\dd, but got input of size", _no_channels),
    (r"mat1 and mat2 shapes cannot be multiplied \((\d+)x(\d+) and (\d+)x\d+\)", _features),
    (r"forward\(\) (missing|takes|got an unexpected)|must be Tensor, not (dict|tuple|list)", _arguments),
    (
        r"Kernel size can't be greater than|Output size is too small",
        "The images are smaller than the layers need. Make them larger, or take away pooling or give padding=.",
    ),
    (r"'indices' to have .*scalar types: Long, Int", "nn.Embedding takes whole numbers. Type x.long()."),
    (
        r"index out of range in self",
        "An index is below 0, or not below the num_embeddings of an nn.Embedding. Make that the largest index + 1.",
    ),
    (
        r"Expected more than 1 value per channel when training",
        "BatchNorm cannot train on a single sample. Leave out a last batch of one: DataLoader(..., drop_last=True), or "
        "fit(..., drop_last=True) for tensors.",
    ),
    (
        r"Target -?\d+ is out of bounds",
        "A label is below 0 or not below the number of outputs of the net. The last layer needs the largest label + 1. "
        "-1 is what pandas gives for a missing category: leave such rows out.",
    ),
    (r"device-side assert", _ASSERT),
    (r"Parameter(?:s|( indices)) which did not receive grad for rank \d+: (.+)", _unused),
    (
        r"Expected to have finished reduction in the prior iteration",
        "The loss did not depend on all parameters of the net. Use them in forward, or type model.compile(..., "
        "strategy=kt.DDP(find_unused_parameters=True)).",
    ),
    (
        r"out of memory",
        "Use a smaller batch_size; predict and evaluate need far less memory per sample than training.",
    ),
    (
        r"stack expects each tensor to be equal size",
        "The samples of a batch differ in shape. Resize them in the Dataset (transforms.Resize((32, 32))), or pad them "
        "in DataLoader(..., collate_fn=...).",
    ),
    (
        r"default_collate: batch must contain .*PIL",
        "The Dataset gives images. Add transform=torchvision.transforms.ToTensor().",
    ),
    (
        r"default_collate: batch must contain .*NoneType",
        "The Dataset gives None for some sample; give a number instead.",
    ),
    (
        r"backward through the graph a second time",
        "A tensor is carried from one batch to the next with its graph, such as the hidden state of an RNN. Type "
        "state.detach() where it is kept.",
    ),
]
