import dataclasses
import functools
import inspect

import pytest
import torch
from torch import nn
from torch.nn import functional

from kerastorch import metrics, resolve
from kerastorch.losses import Loss, OutputLoss
from kerastorch.metrics import Accuracy, MeanAbsoluteError, MeanOf, MeanSquaredError, Metric, Task, TorchMetric
from kerastorch.resolve import metric

CLASSES = [name for name in dir(nn) if name.endswith("Loss")]
NEED_ARGUMENTS = {"AdaptiveLogSoftmaxWithLoss", "LinearCrossEntropyLoss"}  # layers of their own more than losses
MSE = Loss(nn.MSELoss())


def functions():
    found = {name: item for name, item in vars(functional).items() if inspect.isfunction(item) and name[0] != "_"}
    return {name: item for name, item in found.items() if "reduction" in inspect.signature(item).parameters}


def message(kind, function, *arguments):
    with pytest.raises(kind) as error:
        function(*arguments)
    return str(error.value)


def own_metric(y_pred, y_true):
    return (y_pred == y_true).float().mean()


@pytest.mark.parametrize("name", [name for name in CLASSES if name not in NEED_ARGUMENTS])
def test_every_loss_class_of_torch_has_its_name_in_any_spelling(name):
    kind = getattr(nn, name)
    for spelling in (name, name.lower(), name.upper(), name.removesuffix("Loss"), name.removesuffix("Loss").lower()):
        assert type(resolve.loss(spelling).function) is kind
    made = resolve.loss(kind)
    assert type(made.function) is kind
    assert made.function is not resolve.loss(name).function


@pytest.mark.parametrize("name", [name for name in functions() if "linear" not in name])
def test_every_loss_function_of_torch_has_its_name(name):
    found = resolve.loss(name).function
    bare = name.replace("_", "").removesuffix("loss")
    classes = {kind.lower().removesuffix("loss"): getattr(nn, kind) for kind in CLASSES}
    if name == "binary_cross_entropy":
        assert type(found) is nn.BCELoss
    elif bare in classes:
        assert type(found) is classes[bare]
    else:
        assert found is getattr(functional, name)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cross_entropy", nn.CrossEntropyLoss),
        ("CrossEntropy", nn.CrossEntropyLoss),
        ("crossentropy", nn.CrossEntropyLoss),
        ("categorical_crossentropy", nn.CrossEntropyLoss),
        ("sparse_categorical_crossentropy", nn.CrossEntropyLoss),
        ("mse", nn.MSELoss),
        ("MSE", nn.MSELoss),
        ("mse_loss", nn.MSELoss),
        ("mean_squared_error", nn.MSELoss),
        ("Mean_Squared_Error", nn.MSELoss),
        ("mae", nn.L1Loss),
        ("l1", nn.L1Loss),
        ("mean_absolute_error", nn.L1Loss),
        ("huber", nn.HuberLoss),
        ("smooth_l1", nn.SmoothL1Loss),
        ("bce", nn.BCELoss),
        ("binary_crossentropy", nn.BCELoss),
        ("binary_cross_entropy", nn.BCELoss),
        ("bce_with_logits", nn.BCEWithLogitsLoss),
        ("BCEWithLogits", nn.BCEWithLogitsLoss),
        ("nll", nn.NLLLoss),
        ("kl_div", nn.KLDivLoss),
    ],
)
def test_the_usual_names_of_a_loss_are_known(name, kind):
    loss = resolve.loss(name)
    assert type(loss.function) is kind
    assert loss.function.reduction == "mean"


def test_a_function_of_torch_without_a_class_is_found_by_name():
    loss = resolve.loss("binary_cross_entropy_with_logits")
    assert loss.function is functional.binary_cross_entropy_with_logits
    assert loss.by_element


def test_losses_pass_as_objects_classes_and_functions():
    for function in (nn.HuberLoss(delta=3.0), functional.mse_loss, functools.partial(functional.mse_loss), own_metric):
        assert resolve.loss(function).function is function
    assert type(resolve.loss(nn.HuberLoss).function) is nn.HuberLoss
    assert resolve.loss(MSE) is MSE


def test_a_class_of_the_users_own_is_made_an_object():
    class Distance:
        def __call__(self, output, target):
            return (output - target).abs().mean()

    assert type(resolve.loss(Distance).function) is Distance


def test_a_class_that_needs_arguments_is_asked_for_as_an_object():
    class Margin:
        def __init__(self, size, *more, power=2, **others): ...

    assert message(ValueError, resolve.loss, Margin) == (
        "The loss Margin needs arguments; pass an object: Margin(...)."
    )


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("cross_entrpy", " Did you mean 'cross_entropy'?"),
        ("CrosEntropyLoss", " Did you mean 'cross_entropy'?"),
        ("huberr", " Did you mean 'huber_loss'?"),
        ("mean_square_error", " Did you mean 'mean_squared_error'?"),
        ("xyz", ""),
        ("", ""),
    ],
)
def test_an_unknown_loss_is_named_with_a_suggestion(name, suggestion):
    text = f"Unknown loss {name!r}.{suggestion} Losses are those of torch.nn.functional."
    assert message(ValueError, resolve.loss, name) == text


@pytest.mark.parametrize("name", ["cross_entrpy", "CrosEntropy", "huberr", "mean_square_error", "bce_with_logit"])
def test_a_suggested_loss_is_known(name):
    suggested = message(ValueError, resolve.loss, name).partition("Did you mean '")[2].partition("'")[0]
    assert callable(resolve.loss(suggested).function)


@pytest.mark.parametrize("name", [name for name in sorted(NEED_ARGUMENTS) if hasattr(nn, name)])
def test_a_loss_that_needs_arguments_is_asked_for_as_an_object(name):
    expected = f"The loss {name} needs arguments; pass an object: {name}(...)."
    assert message(ValueError, resolve.loss, name) == expected
    assert message(ValueError, resolve.loss, getattr(nn, name)) == expected


@pytest.mark.parametrize("spec", [3, [3], {"a": 3}])
def test_what_is_no_loss_is_refused(spec):
    assert message(TypeError, resolve.loss, spec) == (
        "loss is a function f(output, target), a loss of torch.nn, or a name like 'cross_entropy'; got 3."
    )


def test_a_net_may_have_a_loss_of_its_own():
    assert type(resolve.loss(None)) is OutputLoss


@pytest.mark.parametrize("spec", [{"a": "mse", "b": nn.L1Loss(), "c": None}, ["mse", nn.L1Loss(), None]])
def test_several_losses_are_by_name_or_by_place(spec):
    several = resolve.loss(spec)
    names = ["a", "b"] if isinstance(spec, dict) else [0, 1]
    assert list(several.losses) == names
    assert [type(loss.function) for loss in several.losses.values()] == [nn.MSELoss, nn.L1Loss]
    shown = ["a_loss", "b_loss"] if isinstance(spec, dict) else ["output_0_loss", "output_1_loss"]
    assert several.factors == dict.fromkeys(shown, 1.0)
    weights = {"b": 2} if isinstance(spec, dict) else [1, 2, 0]
    assert list(resolve.loss(spec, weights).factors.values()) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("spec", "weights", "text"),
    [
        ("mse", {"a": 1}, "loss_weights says how often each of several losses counts, but there is one; got {'a': 1}."),
        (None, [1], "loss_weights says how often each of several losses counts, but there is one; got [1]."),
        ({"age": "mse"}, {"aeg": 1}, "loss_weights {'aeg': 1} does not fit the losses of 'age'. Did you mean 'age'?"),
        ({"a": "mse"}, [1], "loss_weights must be a dict, as loss is; got [1]."),
        (["mse"], {"a": 1}, "loss_weights must be a list, as loss is; got {'a': 1}."),
        (["mse"], 3, "loss_weights must be a list, as loss is; got 3."),
        (["mse", "mae"], [1], "loss_weights [1] does not fit the losses of 0, 1. Give one number for each."),
        (["mse"], ["1"], "loss_weights must be numbers; got ['1']."),
        (["mse"], [float("nan")], "loss_weights must be numbers; got [nan]."),
        ({}, None, "loss names no loss at all. Type loss={'name of the output': 'cross_entropy'}."),
        ([None], None, "loss names no loss at all. Type loss={'name of the output': 'cross_entropy'}."),
    ],
)
def test_losses_and_weights_that_do_not_fit_are_named(spec, weights, text):
    assert message(ValueError, resolve.loss, spec, weights) == text


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("adam", torch.optim.Adam),
        ("Adam", torch.optim.Adam),
        ("ADAMW", torch.optim.AdamW),
        ("sgd", torch.optim.SGD),
        ("RMSprop", torch.optim.RMSprop),
        ("rmsprop", torch.optim.RMSprop),
        ("nadam", torch.optim.NAdam),
    ],
)
def test_an_optimizer_has_its_name_in_any_spelling(name, kind):
    made = resolve.optimizer(name)(nn.Linear(1, 1).parameters())
    assert type(made) is kind
    plain = kind(nn.Linear(1, 1).parameters()).defaults
    assert made.defaults == (plain | {"fused": True} if name.lower() in ("adam", "adamw") else plain)


def test_every_optimizer_of_torch_is_known():
    kinds = {name for name, kind in vars(torch.optim).items() if inspect.isclass(kind)} - {"Optimizer"}
    assert {"SGD", "Adam"} < kinds
    for name in kinds - {"Adam", "AdamW"}:
        assert resolve.optimizer(name.lower()) is getattr(torch.optim, name)


def test_without_an_optimizer_it_is_adam_with_its_fastest_setting():
    optimizer = resolve.optimizer(None)(nn.Linear(1, 1).parameters())
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.param_groups[0]["lr"] == 1e-3
    assert optimizer.param_groups[0]["fused"] is True


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_a_class_stays_as_it_was_written_and_a_name_differs_in_the_last_digit_only(kind):
    nets = [nn.Linear(8, 8), nn.Linear(8, 8)]
    nets[1].load_state_dict(nets[0].state_dict())
    optimizers = [
        resolve.optimizer(spec)(net.parameters()) for spec, net in zip((kind.__name__, kind), nets, strict=True)
    ]
    assert [optimizer.param_groups[0]["fused"] for optimizer in optimizers] == [True, None]
    for net, optimizer in zip(nets, optimizers, strict=True):
        for _ in range(10):
            net.zero_grad()
            net(torch.ones(2, 8)).square().sum().backward()
            optimizer.step()
    assert torch.allclose(nets[0].weight, nets[1].weight, atol=1e-6)


def test_where_torch_has_no_fused_kernel_a_name_is_built_with_torchs_defaults():
    for parameter in (nn.Parameter(torch.ones(2, dtype=torch.complex64)), nn.Parameter(torch.ones(2, device="meta"))):
        assert resolve.optimizer("adam")([parameter]).param_groups[0]["fused"] is None
    lazy = nn.LazyLinear(3)
    assert resolve.optimizer("adamw")(lazy.parameters()).param_groups[0]["fused"] is True


def test_optimizers_pass_as_objects_classes_and_functions():
    net = nn.Linear(1, 1)
    for spec in (
        torch.optim.SGD(net.parameters(), lr=0.1),
        torch.optim.Adam,
        functools.partial(torch.optim.SGD, lr=0.1),
        lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    ):
        assert resolve.optimizer(spec) is spec


def test_an_unknown_optimizer_is_named_with_a_suggestion():
    text = message(ValueError, resolve.optimizer, "adm")
    assert text.startswith("Unknown optimizer 'adm'. Did you mean 'adam'? torch.optim has ")
    assert ", adamw, " in text
    assert "optimizer," not in text
    assert message(ValueError, resolve.optimizer, "optimizer").startswith("Unknown optimizer 'optimizer'.")


@pytest.mark.parametrize("spec", [3, 0.001, ["adam"], {"lr": 0.1}])
def test_what_is_no_optimizer_is_refused(spec):
    assert message(TypeError, resolve.optimizer, spec) == (
        "optimizer is an optimizer, a name such as 'adam', a class of torch.optim, "
        f"or functools.partial(torch.optim.SGD, lr=0.01); got {spec!r}. For several, override train_step(batch)."
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("accuracy", Accuracy),
        ("acc", Accuracy),
        ("Accuracy", Accuracy),
        ("mse", MeanSquaredError),
        ("mean_squared_error", MeanSquaredError),
        ("mae", MeanAbsoluteError),
        ("MAE", MeanAbsoluteError),
        ("mean_absolute_error", MeanAbsoluteError),
    ],
)
def test_a_metric_has_its_name_and_keeps_the_spelling(name, kind):
    for spec in (name, [name], (name,), {name: name}):
        found = resolve.metrics(spec, MSE)
        assert list(found) == [name]
        assert type(found[name]) is kind
    assert type(resolve.metrics({"mine": name}, MSE)["mine"]) is kind


class Bias(Metric):
    def measure(self, output, target, weight, size):
        return (output - target).sum(), output.numel()


class HTTPScore:
    def update(self, output, target): ...
    def compute(self): ...
    def reset(self): ...


class TopK3Accuracy:
    def __call__(self, output, target): ...


def test_metrics_pass_as_functions_and_objects_in_their_order():
    bias = Bias()
    spec = [bias, own_metric, "accuracy", HTTPScore(), TopK3Accuracy(), lambda a, b: 1.0, functools.partial(own_metric)]
    found = resolve.metrics(spec, MSE)
    names = ["bias", "own_metric", "accuracy", "http_score", "top_k3_accuracy", "lambda", "partial"]
    assert list(found) == names
    assert [type(metric) for metric in found.values()] == [Bias, MeanOf, Accuracy, TorchMetric, MeanOf, MeanOf, MeanOf]
    assert found["bias"] is bias
    assert found["own_metric"].function is own_metric


def test_a_single_metric_needs_no_list():
    assert list(resolve.metrics(own_metric, MSE)) == ["own_metric"]
    assert list(resolve.metrics({"mine": own_metric, "theirs": "mse"}, MSE)) == ["mine", "theirs"]


@pytest.mark.parametrize("spec", [None, [], (), {}])
def test_there_need_be_no_metric(spec):
    assert resolve.metrics(spec, MSE) == {}


@pytest.mark.parametrize(
    ("spec", "kind", "text"),
    [
        (
            "accurcy",
            ValueError,
            "Unknown metric 'accurcy'. Did you mean 'accuracy'? There are accuracy, top5, precision, recall, f1, iou, "
            "dice, confusion_matrix, auroc, average_precision, mae, mse, rmse, r2, perplexity.",
        ),
        (
            {"loss": own_metric},
            ValueError,
            "The metric name 'loss' stands for something else in the history; give another: metrics={'my_loss': ...}.",
        ),
        (
            {"lr": own_metric},
            ValueError,
            "The metric name 'lr' stands for something else in the history; give another: metrics={'my_lr': ...}.",
        ),
        (
            {"val_f1": own_metric},
            ValueError,
            "The metric name 'val_f1' stands for something else in the history; "
            "give another: metrics={'my_val_f1': ...}.",
        ),
        (
            ["mse", own_metric, "mse"],
            ValueError,
            "The metric name 'mse' is there twice; give another: metrics={'my_mse': ...}.",
        ),
        ([Bias], TypeError, "The metric 'bias' is the class Bias; pass an object: Bias(...)."),
        (
            {"bias": 3},
            TypeError,
            "The metric 'bias' is a name, a function f(y_pred, y_true) or a metric object; got 3.",
        ),
        (
            {"bias": None},
            TypeError,
            "The metric 'bias' is a name, a function f(y_pred, y_true) or a metric object; got None.",
        ),
        (3, TypeError, "The metric 'int' is a name, a function f(y_pred, y_true) or a metric object; got 3."),
    ],
)
def test_metrics_that_cannot_be_used_are_named(spec, kind, text):
    assert message(kind, resolve.metrics, spec, MSE) == text


@pytest.mark.parametrize(
    ("loss", "threshold", "classes", "ignore_index"),
    [
        ("cross_entropy", 0.5, True, -100),
        (nn.CrossEntropyLoss(ignore_index=7), 0.5, True, 7),
        (functools.partial(functional.nll_loss, ignore_index=3), 0.5, True, 3),
        ("bce_with_logits", 0.0, False, None),
        (functools.partial(functional.binary_cross_entropy_with_logits, reduction="sum"), 0.0, False, None),
        ("bce", 0.5, False, None),
        ("mse", 0.5, False, None),
        (own_metric, 0.5, False, None),
    ],
)
def test_accuracy_by_name_suits_the_loss(loss, threshold, classes, ignore_index):
    found = resolve.metrics("accuracy", resolve.loss(loss))["accuracy"]
    assert (found.threshold, bool(found.classes), found.ignore_index) == (threshold, classes, ignore_index)


NLL, PROBABILITIES = functional.nll_loss, nn.BCELoss()


@pytest.mark.parametrize(
    ("loss", "key", "task"),
    [
        ("cross_entropy", None, Task("logits", labels=True, ignore_index=-100)),
        (functools.partial(NLL, ignore_index=3), None, Task("log_probabilities", labels=True, ignore_index=3)),
        ("bce_with_logits", None, Task("logits", labels=False)),
        ("multilabel_soft_margin", None, Task("logits", labels=False)),
        (PROBABILITIES, None, Task("probabilities", labels=False)),
        ("mse", None, Task(labels=False)),
        (own_metric, None, Task()),
        (None, None, Task("logits", ignore_index=-100)),
        (None, "logits", Task("logits", ignore_index=-100)),
        (None, "mask", Task(ignore_index=-100)),
        ({"a": "bce", "b": "mse"}, "a", Task("probabilities", labels=False)),
        ({"a": "bce", "b": "mse"}, "c", Task()),
        (["mse", "bce"], 1, Task("probabilities", labels=False)),
    ],
)
def test_a_loss_tells_what_outputs_and_targets_are(loss, key, task):
    assert metric.task(resolve.loss(loss), key) == task


def test_metrics_of_one_output_have_its_name():
    loss = resolve.loss({"a": "bce_with_logits", "b": "mse"})
    found = resolve.metrics({"a": ["accuracy", own_metric], "b": {"error": "mae"}, "both": own_metric}, loss)
    assert list(found) == ["a_accuracy", "a_own_metric", "b_error", "both"]
    assert [found[name].key for name in list(found)[:3]] == ["a", "a", "b"]
    assert found["a_accuracy"].metric.threshold == 0.0
    by_place = resolve.metrics([["accuracy"], {"error": "mae"}], resolve.loss(["cross_entropy", "mse"]))
    assert list(by_place) == ["output_0_accuracy", "output_1_error"]


def test_a_metric_of_several_outputs_says_which_it_is_for():
    text = "There are several losses, so say which output 'mae' is for: metrics={'a': [...]}."
    assert message(ValueError, resolve.metrics, ["mae"], resolve.loss({"a": "mse"})) == text
    text = "There are several losses, so say which output 'mae' is for: metrics=[[...], [...]]."
    assert message(ValueError, resolve.metrics, ["mae"], resolve.loss(["mse"])) == text


def test_a_metric_has_not_the_name_of_a_loss():
    text = "The metric name 'a_loss' stands for something else in the history; give another: "
    message_of = message(ValueError, resolve.metrics, {"a_loss": own_metric}, resolve.loss({"a": "mse"}))
    assert message_of == text + "metrics={'my_a_loss': ...}."


def test_one_of_two_spellings_may_be_given():
    assert resolve.either("loss", None, "loss_func", None) is None
    assert resolve.either("loss", "mse", "loss_func", None) == "mse"
    assert resolve.either("loss", None, "loss_func", "mse") == "mse"
    assert resolve.either("loss", 0, "loss_func", None) == 0
    assert message(TypeError, resolve.either, "loss", "mse", "loss_func", "mse") == (
        "loss and loss_func are two spellings of one argument; give one of them."
    )


@pytest.fixture
def machine(monkeypatch):
    """Set what accelerators torch finds."""

    def has(kind, count=1):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: kind is not None)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: kind and torch.device(kind))
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)

    return has


@pytest.mark.parametrize(
    ("there", "spec", "found"),
    [
        (None, "auto", "cpu"),
        ("cuda", "auto", "cuda"),
        ("mps", "auto", "mps"),
        ("cuda", "cpu", "cpu"),
        ("cuda", "cuda", "cuda"),
        ("cuda", "cuda:1", "cuda:1"),
        ("cuda", torch.device("cuda:0"), "cuda:0"),
        ("xpu", "xpu", "xpu"),
        (None, "meta", "meta"),
        (None, torch.device("cpu"), "cpu"),
    ],
)
def test_a_device_that_is_there_is_found(machine, there, spec, found):
    machine(there, 2)
    assert resolve.device(spec) == torch.device(found)


@pytest.mark.parametrize(
    ("there", "spec", "text"),
    [
        (None, "gpu", "Unknown device 'gpu'. Devices are 'auto', 'cpu', 'cuda', 'cuda:1', 'mps', 'xpu'."),
        (None, "Cuda", "Unknown device 'Cuda'. Devices are 'auto', 'cpu', 'cuda', 'cuda:1', 'mps', 'xpu'."),
        (None, 1.5, "Unknown device 1.5. Devices are 'auto', 'cpu', 'cuda', 'cuda:1', 'mps', 'xpu'."),
        (
            None,
            "cuda",
            "The device 'cuda' is not there: torch finds no accelerator on this machine. Type device='auto'.",
        ),
        (
            "cuda",
            "mps",
            "The device 'mps' is not there: torch finds only 'cuda' on this machine. Type device='auto'.",
        ),
        ("cuda", "cuda:2", "The device 'cuda:2' is not there: this machine has 2, numbered from 0."),
    ],
)
def test_a_device_that_is_not_there_is_named(machine, there, spec, text):
    machine(there, 2)
    assert message(ValueError, resolve.device, spec) == text


def test_a_recipe_cannot_be_changed():
    recipe = resolve.Recipe(MSE, torch.optim.Adam, {}, "cpu")
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.device = "cuda"


def test_a_metric_object_has_the_name_that_it_has_by_name():
    objects = [metrics.IoU(), metrics.F1(), metrics.R2(), metrics.AUROC(), metrics.ConfusionMatrix(), metrics.Dice()]
    names = ["iou", "f1", "r2", "auroc", "confusion_matrix", "dice"]
    assert list(resolve.metrics(objects, resolve.loss("cross_entropy"))) == names
