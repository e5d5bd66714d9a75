"""Sums over processes: a share of the data each, of different sizes, is worth what all data are in one process."""

import functools

import pytest
import sklearn.metrics
import torch
import torchmetrics
from torch import nn
from torch.nn import functional

from kerastorch import loop, metrics, resolve
from kerastorch.data import NoData, adapt
from kerastorch.hooks import Hooks
from kerastorch.metrics import MetricSet
from kerastorch.run import Run
from kerastorch.state import TrainState
from kerastorch.step import evaluate_step
from kerastorch.strategy import Strategy
from kerastorch.strategy.processes import join
from tests.distributed.together import together

LEAVES = """
    import gc
    import torch
    import torch.distributed as dist
    from kerastorch.strategy import processes

    gc.collect = lambda: None  # it mostly takes long enough
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    for number in range(12):
        dist.init_process_group("gloo", store=dist.PrefixStore(str(number), store), rank=0, world_size=1)
        tensor = torch.ones(100_000)
        dist.all_reduce(tensor, async_op=True).wait()
        del tensor
        processes.leave()
        assert not dist.is_initialized()
"""

COUNT, CLASSES = 37, 4
WEIGHTS = torch.tensor([0.5, 2.0, 0.25, 1.5], dtype=torch.float64)


def cases():
    labels = ["accuracy", "f1", "precision", "recall", "iou", "confusion_matrix", "auroc", "average_precision"]
    kappa = metrics.Epoch(sklearn.metrics.cohen_kappa_score, outputs="labels")
    theirs = [
        torchmetrics.classification.MulticlassF1Score(CLASSES),
        torchmetrics.classification.MulticlassAUROC(CLASSES),
    ]
    numbers = ["mae", "mse", "rmse", "r2"]
    cross_entropy = nn.CrossEntropyLoss
    return {
        "labels": ("cross_entropy", [*labels, "perplexity", "top2", kappa, *theirs], "labels", False),
        "ignored labels": (cross_entropy(ignore_index=1), ["accuracy", "f1", "perplexity"], "labels", False),
        "class weights": (cross_entropy(weight=WEIGHTS), ["accuracy"], "labels", False),
        "summed": (cross_entropy(reduction="sum"), ["accuracy"], "labels", False),
        "sample weights": (cross_entropy(ignore_index=2), ["accuracy", "recall", "confusion_matrix"], "labels", True),
        "numbers": ("mse", [*numbers, own_metric], "numbers", False),
        "weighted numbers": ("l1_loss", numbers, "numbers", True),
        "both": ({"kind": "cross_entropy", "size": "mse"}, {"kind": ["f1"], "size": ["r2"]}, "both", False),
    }


def own_metric(y_pred, y_true):
    return (y_pred - y_true).abs().mean()


class Both(nn.Module):
    def forward(self, x):
        return {"kind": x, "size": x[:, :2]}


def data(kind):
    random = torch.Generator().manual_seed(0)
    x = torch.randn(COUNT, CLASSES, generator=random, dtype=torch.float64)
    labels, numbers = (
        torch.randint(CLASSES, (COUNT,), generator=random),
        torch.randn(COUNT, 2, generator=random).double(),
    )
    weights = torch.rand(COUNT, generator=random, dtype=torch.float64)
    net = {"labels": nn.Identity(), "numbers": nn.Flatten(), "both": Both()}[kind]
    x = x[:, :2] if kind == "numbers" else x
    return net, (x, {"labels": labels, "numbers": numbers, "both": {"kind": labels, "size": numbers}}[kind], weights)


def part(tree, rows):
    return {key: value[rows] for key, value in tree.items()} if isinstance(tree, dict) else tree[rows]


class NoRows(NoData):
    name = "dl_val"


def values(case, rows, strategy=None, batch_size=COUNT):
    loss, spec, kind, weighted = cases()[case]
    net, (x, y, weights) = data(kind)
    objective = resolve.loss(loss)
    sums = MetricSet(resolve.metrics(spec, objective), objective.factors)
    arrays = (x[rows], part(y, rows), weights[rows]) if weighted else (x[rows], part(y, rows))
    source = (
        NoRows() if not len(rows) else adapt(arrays, name="dl_val", float_dtype=torch.float64, batch_size=batch_size)
    )
    run = Run(TrainState(net, None, MetricSet({})), loss=objective, val_sets={"": source}, val_metrics=sums)
    run.strategy = strategy or run.strategy
    run.evaluate_step = functools.partial(evaluate_step, run)
    return loop.evaluate(run, Hooks([], run, net))


def work(cuts):
    group = join(torch.device("cpu"))
    rows = torch.arange(cuts[group.rank], cuts[group.rank + 1])
    return {case: values(case, rows, Strategy(group=group), batch_size=5) for case in cases()}


@pytest.mark.parametrize("cuts", [[0, 9, COUNT], [0, 4, 20, COUNT], [0, 17, 17, COUNT]])
def test_shares_of_the_data_are_worth_what_all_data_are(cuts):
    for found in together(len(cuts) - 1, work, cuts):
        for case in cases():
            wanted = values(case, torch.arange(COUNT))
            assert list(found[case]) == list(wanted), case
            for name, value in wanted.items():
                torch.testing.assert_close(
                    torch.as_tensor(found[case][name]),
                    torch.as_tensor(value),
                    rtol=1e-6,
                    atol=1e-9,
                    msg=f"{case}: {name}",
                )


def test_all_data_at_once_are_what_torch_and_scikit_learn_say():
    _, (x, labels, weights) = data("labels")
    found = values("labels", torch.arange(COUNT), batch_size=5)
    assert found["loss"] == pytest.approx(float(functional.cross_entropy(x, labels)))
    assert found["accuracy"] == sklearn.metrics.accuracy_score(labels, x.argmax(1))
    assert found["f1"] == pytest.approx(sklearn.metrics.f1_score(labels, x.argmax(1), average="macro"))
    assert found["auroc"] == pytest.approx(sklearn.metrics.roc_auc_score(labels, x.softmax(1), multi_class="ovr"))
    weighted = values("sample weights", torch.arange(COUNT), batch_size=5)
    counted = (labels != 2) * weights
    each = functional.cross_entropy(x, labels, reduction="none")
    assert weighted["loss"] == pytest.approx(float((each * counted).sum() / counted.sum()))


def test_to_leave_never_waits_for_ever(run_program):
    """Torch 2.6 frees a group while it holds the lock of Python, for which a thread that it joins may wait."""
    assert run_program(LEAVES).ended(30)[0] == 0
