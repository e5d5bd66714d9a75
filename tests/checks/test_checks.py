import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import kerastorch as kt
from kerastorch import checks
from kerastorch.data import Batch, adapt
from kerastorch.errors import DataError, MismatchError
from kerastorch.losses import Loss

CROSS_ENTROPY, MSE, BCE = nn.CrossEntropyLoss(), nn.MSELoss(), nn.BCELoss()
LOGITS = nn.BCEWithLogitsLoss()
varied = settings(max_examples=60)


def check(loss, output, target, *, index=0):
    checks.first_batch(Loss(loss), output, Batch(index, torch.ones(2, 3), target, size=2))


def message(kind, function, *arguments, **options):
    with pytest.raises(kind) as error:
        function(*arguments, **options)
    return str(error.value)


def whole(*shape, dtype=torch.int64):
    return torch.zeros(shape, dtype=dtype)


@varied
@given(
    st.sampled_from([CROSS_ENTROPY, nn.NLLLoss(), nn.CrossEntropyLoss(ignore_index=-1), functional.cross_entropy]),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from([(), (3,), (2, 2)]),
    st.sampled_from([torch.int64, torch.uint8]),
)
def test_labels_that_torch_takes_pass(loss, count, classes, shape, dtype):
    output = torch.randn(count, classes, *shape)
    target = torch.randint(classes, (count, *shape)).to(torch.int64 if shape else dtype)
    check(loss, output, target)
    loss(output, target)
    if target.dtype == torch.int64:
        check(loss, output, target.fill_(Loss(loss).ignore_index))


def test_probabilities_of_classes_pass():
    check(CROSS_ENTROPY, torch.randn(2, 3, 4), torch.rand(2, 3, 4))


@varied
@given(
    st.sampled_from([MSE, BCE, LOGITS, nn.L1Loss(), nn.HuberLoss(), functional.mse_loss]),
    st.sampled_from([(2,), (2, 1), (3, 2), (0,), (0, 3), ()]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_elements_that_torch_takes_pass(loss, shape, dtype):
    output, target = torch.rand(shape, dtype=dtype), torch.rand(shape, dtype=dtype)
    check(loss, output, target)
    loss(output, target)


def test_what_a_loss_of_the_users_own_compares_is_its_own_business():
    check(lambda output, target: output.mean(), torch.ones(2, 3), whole(2, 7))
    check(lambda output, target: output["a"].mean(), {"a": torch.ones(2)}, torch.ones(3))
    check(lambda output, target: output.mean(), torch.ones(2), [torch.ones(3)])


@pytest.mark.parametrize("loss", [MSE, CROSS_ENTROPY, nn.functional.mse_loss])
def test_a_batch_without_targets_is_named(loss):
    name = Loss(loss).name
    assert message(MismatchError, check, loss, torch.ones(2), None, index=4) == (
        f"The loss {name} needs targets, but batch 4 has none: x float32 (2, 3) cpu, y None. "
        "Batches are (x, y) or (x, y, sample_weight); whole tensors or arrays go into a tuple: fit(3, (x, y))."
    )


def test_a_loss_of_the_users_own_may_need_no_targets():
    check(lambda output, target: output.mean(), torch.ones(2), None)


def test_a_column_against_a_row_is_doubted_where_the_loss_is_the_users_own():
    def own_loss(output, target):
        return (output - target).mean()

    column, row = torch.ones(2, 1), torch.ones(2)
    for output, target in ((column, row), (row, column)):
        with pytest.warns(UserWarning) as warned:
            check(own_loss, output, target)
        assert [str(warning.message) for warning in warned] == [
            f"output float32 {tuple(output.shape)} cpu, target float32 {tuple(target.shape)} cpu: "
            "if the loss own_loss compares element by element, torch compares each with each. "
            "Type y[..., None], or output.squeeze(-1) at the end of forward."
        ]
    for output, target in ((column[:1], row[:1]), (column, column), (row, row), (torch.ones(2, 2), row)):
        check(own_loss, output, target)


@pytest.mark.parametrize("loss", [MSE, CROSS_ENTROPY, lambda output, target: output.mean()])
def test_another_number_of_outputs_than_targets_is_named(loss):
    assert message(MismatchError, check, loss, torch.ones(4, 2), torch.ones(3)) == (
        "The net gave 4 outputs for 3 targets: output float32 (4, 2) cpu, target float32 (3,) cpu. Dimension 0 of both "
        "is the samples; to flatten the others in forward, type x.flatten(1)."
    )


def test_different_devices_are_named():
    assert message(MismatchError, check, MSE, torch.ones(2, device="meta"), torch.ones(2)) == (
        "Output and target are on different devices: output float32 (2,) meta, target float32 (2,) cpu. The model "
        "moves the net and all batches: take away what moves them by hand, such as .cuda() or .to(...)."
    )


@pytest.mark.parametrize(
    ("output", "target", "text"),
    [
        (
            torch.ones(3),
            whole(3),
            "CrossEntropyLoss needs outputs (N, C) with a score for each class; got float32 (3,) cpu.",
        ),
        (
            torch.ones(2, 3),
            torch.ones(2),
            "CrossEntropyLoss needs labels as int64, or a probability for each class; got "
            "output float32 (2, 3) cpu, target float32 (2,) cpu. If the targets are labels: "
            "Type y.long(), or y.astype('int64') for an array.",
        ),
        (
            torch.ones(2, 3),
            whole(2, 1),
            "CrossEntropyLoss needs labels of the shape (2,); got output float32 (2, 3) cpu, target int64 (2, 1) cpu. "
            "Type y.squeeze(1).",
        ),
        (
            torch.ones(2, 3, 4, 5),
            whole(2, 1, 4, 5),
            "CrossEntropyLoss needs labels of the shape (2, 4, 5); got output float32 (2, 3, 4, 5) cpu, "
            "target int64 (2, 1, 4, 5) cpu. Type y.squeeze(1).",
        ),
        (
            torch.ones(2, 3),
            whole(2, 3),
            "CrossEntropyLoss needs labels of the shape (2,); got output float32 (2, 3) cpu, target int64 (2, 3) cpu. "
            "One-hot labels: type y.argmax(1).",
        ),
        (
            torch.ones(2, 3),
            whole(2, 4, 4),
            "CrossEntropyLoss needs labels of the shape (2,); got output float32 (2, 3) cpu, "
            "target int64 (2, 4, 4) cpu.",
        ),
        (
            torch.ones(2, 3),
            whole(2, dtype=torch.int32),
            "CrossEntropyLoss needs labels as int64; got int32 (2,) cpu. "
            "Type y.long(), or y.astype('int64') for an array.",
        ),
        (
            torch.ones(2, 3),
            whole(2, dtype=torch.bool),
            "CrossEntropyLoss needs labels as int64; got bool (2,) cpu. "
            "Type y.long(), or y.astype('int64') for an array.",
        ),
        (
            torch.ones(2, 3, 4),
            whole(2, 4, dtype=torch.uint8),
            "CrossEntropyLoss needs labels as int64; got uint8 (2, 4) cpu. "
            "Type y.long(), or y.astype('int64') for an array.",
        ),
        (
            torch.ones(2, 3),
            torch.tensor([1, 3]),
            "The labels go from 1 to 3, but the net has 3 outputs, for labels 0 to 2: labels begin at 0: type y - 1.",
        ),
        (
            torch.ones(2, 3),
            torch.tensor([0, 3]),
            "The labels go from 0 to 3, but the net has 3 outputs, for labels 0 to 2: the last layer needs 4 outputs.",
        ),
        (
            torch.ones(2, 3),
            torch.tensor([-100, 7]),
            "The labels go from 7 to 7, but the net has 3 outputs, for labels 0 to 2: the last layer needs 8 outputs.",
        ),
        (
            torch.ones(2, 3),
            torch.tensor([-1, 2]),
            "The labels go from -1 to 2, but the net has 3 outputs, for labels 0 to 2: "
            "labels begin at 0; say ignore_index=-1 if it marks what is not to be counted.",
        ),
        (
            torch.ones(2, 120),
            torch.tensor([156, 3], dtype=torch.uint8),  # 156 is -100 as a byte
            "The labels go from 3 to 156, but the net has 120 outputs, for labels 0 to 119: "
            "the last layer needs 157 outputs.",
        ),
    ],
)
def test_labels_that_do_not_fit_are_named_with_what_to_type(output, target, text):
    assert message(MismatchError, check, CROSS_ENTROPY, output, target) == text
    function = functools.partial(functional.cross_entropy, label_smoothing=0.1)
    assert message(MismatchError, check, function, output, target) == text.replace("CrossEntropyLoss", "cross_entropy")


COMPARES = "MSELoss compares element by element, so output and target need one shape; got "
SILENT = "torch would compare each with each without a word. "


@pytest.mark.parametrize(
    ("output", "target", "got", "hint"),
    [
        (
            torch.ones(4, 1),
            torch.ones(4),
            "output float32 (4, 1) cpu, target float32 (4,) cpu. ",
            "Type y[..., None] for the targets, or output.squeeze(-1) at the end of forward.",
        ),
        (
            torch.ones(4),
            torch.ones(4, 1),
            "output float32 (4,) cpu, target float32 (4, 1) cpu. ",
            "Type y.squeeze(-1) for the targets.",
        ),
        (
            torch.ones(4, 2, 3),
            torch.ones(4, 6),
            "output float32 (4, 2, 3) cpu, target float32 (4, 6) cpu. ",
            "Type y.reshape(-1, 2, 3).",
        ),
        (
            torch.ones(4),
            torch.ones(4, 1, 1),
            "output float32 (4,) cpu, target float32 (4, 1, 1) cpu. ",
            "Type y.reshape(-1).",
        ),
        (
            torch.ones(4, 3),
            torch.ones(4, 5),
            "output float32 (4, 3) cpu, target float32 (4, 5) cpu. ",
            "Pad or crop one of them.",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_named_with_what_to_type(output, target, got, hint):
    assert message(MismatchError, check, MSE, output, target) == COMPARES + got + SILENT + hint


@pytest.mark.parametrize(
    ("output", "target"),
    [
        (torch.ones(4, 1), torch.ones(4)),
        (torch.ones(4), torch.ones(4, 1)),
        (torch.ones(4, 2, 3), torch.ones(4, 6)),
        (torch.ones(4), torch.ones(4, 1, 1)),
        (torch.ones(4), whole(4)),
        (torch.ones(4, 1), whole(4, 1, dtype=torch.bool)),
    ],
)
def test_what_the_text_says_to_type_helps_for_any_batch(output, target):
    text = message(MismatchError, check, MSE, output, target)
    what_to_type = text.rpartition("Type ")[2].split(" for the")[0].split(", or")[0].removesuffix(".")
    for count in (4, 3):  # the last batch of an epoch has fewer samples
        check(MSE, output[:count], eval(what_to_type, {"y": target[:count]}))


@pytest.mark.parametrize(
    ("loss", "output", "target", "text"),
    [
        (
            MSE,
            torch.ones(2),
            whole(2),
            "MSELoss needs targets of a floating dtype; got int64 (2,) cpu. "
            "Type y.float(), or y.astype('float32') for an array.",
        ),
        (
            LOGITS,
            torch.ones(2),
            whole(2, dtype=torch.bool),
            "BCEWithLogitsLoss needs targets of a floating dtype; got bool (2,) cpu. "
            "Type y.float(), or y.astype('float32') for an array.",
        ),
        (
            LOGITS,
            torch.ones(2),
            torch.tensor([0.0, 2.0]),
            "BCEWithLogitsLoss needs targets between 0 and 1; got 0 to 2. "
            "Type y - 1 for labels 1 and 2, (y + 1) / 2 for -1 and 1; for more classes use 'cross_entropy'.",
        ),
        (
            functional.binary_cross_entropy,
            torch.ones(2),
            torch.tensor([-1.0, 1.0]),
            "binary_cross_entropy needs targets between 0 and 1; got -1 to 1. "
            "Type y - 1 for labels 1 and 2, (y + 1) / 2 for -1 and 1; for more classes use 'cross_entropy'.",
        ),
        (
            BCE,
            torch.tensor([-0.25, 3.0]),
            torch.ones(2),
            "BCELoss needs outputs between 0 and 1; got -0.25 to 3. These are logits: use loss='bce_with_logits'.",
        ),
    ],
)
def test_values_that_do_not_fit_are_named_with_what_to_type(loss, output, target, text):
    assert message(MismatchError, check, loss, output, target) == text


def test_nan_is_no_matter_of_shapes():
    check(BCE, torch.tensor([math.nan, 0.5]), torch.ones(2))


def test_a_loss_is_one_number_that_can_be_trained_on():
    parameter = torch.ones((), requires_grad=True)
    checks.loss_value(parameter * 2, "MSELoss", training=True)
    checks.loss_value(torch.tensor(1.0), "MSELoss", training=False)
    checks.loss_value(torch.tensor(math.nan), "MSELoss", training=False)


@pytest.mark.parametrize(
    ("value", "training", "text"),
    [
        (
            torch.ones(3),
            False,
            "The loss own must be one number, a tensor without dimensions; got float32 (3,) cpu. "
            "Type loss.mean(), or leave out reduction='none'.",
        ),
        (
            torch.ones(1),
            True,
            "The loss own must be one number, a tensor without dimensions; got float32 (1,) cpu. "
            "Type loss.mean(), or leave out reduction='none'.",
        ),
        (
            0.5,
            False,
            "The loss own must be one number, a tensor without dimensions; got 0.5. Compute it with torch.",
        ),
        (
            None,
            True,
            "The loss own must be one number, a tensor without dimensions; got None. Compute it with torch.",
        ),
        (
            torch.tensor(1.0),
            True,
            "The loss own does not depend on any trainable parameter. Is every parameter frozen "
            "(requires_grad=False; type model.unfreeze()), or does forward detach its output?",
        ),
    ],
)
def test_a_loss_that_cannot_be_used_is_named(value, training, text):
    assert message(MismatchError, checks.loss_value, value, "own", training=training) == text


@pytest.mark.parametrize(("count", "initial"), [(1, 0), (3, 2), (10**9, 0), (np.int64(3), 0)])
def test_epochs_to_train_pass(count, initial):
    checks.epochs(count, initial)


@pytest.mark.parametrize(
    ("count", "initial", "kind", "text"),
    [
        (2.0, 0, TypeError, "epochs is a whole number and comes first: fit(3, dl_train, dl_val); got float."),
        (
            np.float64(2),
            0,
            TypeError,
            "epochs is a whole number and comes first: fit(3, dl_train, dl_val); got float64.",
        ),
        (True, 0, TypeError, "epochs is a whole number and comes first: fit(3, dl_train, dl_val); got bool."),
        (None, 0, TypeError, "epochs is a whole number and comes first: fit(3, dl_train, dl_val); got NoneType."),
        ([], 0, TypeError, "epochs is a whole number and comes first: fit(3, dl_train, dl_val); got list."),
        (0, 0, ValueError, "There is no epoch to train: epochs=0, initial_epoch=0; epochs is where to end."),
        (-1, 0, ValueError, "There is no epoch to train: epochs=-1, initial_epoch=0; epochs is where to end."),
        (3, 3, ValueError, "There is no epoch to train: epochs=3, initial_epoch=3; epochs is where to end."),
        (3, -1, ValueError, "There is no epoch to train: epochs=3, initial_epoch=-1; epochs is where to end."),
    ],
)
def test_epochs_that_cannot_be_trained_are_named(count, initial, kind, text):
    assert message(kind, checks.epochs, count, initial) == text


def test_numbers_are_at_least_one():
    checks.positive(validation_freq=1, log_step_freq=None)
    assert message(ValueError, checks.positive, first=1, second=0) == "second is at least 1; got 0."
    assert message(ValueError, checks.positive, first=-3) == "first is at least 1; got -3."


def test_an_optimizer_holds_parameters_of_the_net():
    net, other = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)), nn.Linear(1, 1)
    checks.optimizer_fits(torch.optim.SGD(net.parameters(), lr=0.1), net)
    checks.optimizer_fits(torch.optim.SGD([{"params": net[1].bias}], lr=0.1), net)
    checks.optimizer_fits(torch.optim.SGD([*net.parameters(), *other.parameters()], lr=0.1), net)
    with pytest.warns(UserWarning, match=r"does not train 0\.weight, but holds parameters that are not in the net"):
        checks.optimizer_fits(torch.optim.SGD([{"params": other.parameters()}, {"params": net[1].bias}], lr=0.1), net)
    assert message(MismatchError, checks.optimizer_fits, torch.optim.Adam(other.parameters()), net) == (
        "The optimizer Adam holds no parameter of this net, so nothing would be trained. "
        "Build it from model.parameters(), after the last change of layers."
    )


def test_an_optimizer_need_not_know_what_is_frozen():
    net = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net[1] = nn.Linear(1, 1).requires_grad_(False)
    checks.optimizer_fits(optimizer, net)


def test_parameters_that_came_later_are_named():
    net = nn.Sequential(nn.Linear(1, 1))
    before = list(net.parameters())
    checks.same_parameters(net, before)
    net.append(nn.Linear(1, 1))
    assert message(MismatchError, checks.same_parameters, net, before) == (
        "The net has new parameters, 1.weight for one, which its optimizer does not know. "
        "Call model.compile(...) again after the last change of layers."
    )
    del net[1]
    checks.same_parameters(net, before)


def test_an_optimizer_that_needs_a_closure_is_refused():
    class Plain(torch.optim.SGD):
        def step(self):
            return super().step()

    parameters = [nn.Parameter(torch.ones(1))]
    checks.needs_no_closure(torch.optim.Adam(parameters))
    checks.needs_no_closure(Plain(parameters, lr=0.1))
    assert message(MismatchError, checks.needs_no_closure, torch.optim.LBFGS(parameters)) == (
        "LBFGS evaluates the loss several times a step, through a closure. "
        "Subclass kt.Model, override train_step(batch), and call self.optimizer.step(closure) there."
    )


def test_data_that_can_be_read_once_are_for_one_epoch():
    batches = [(torch.ones(1),)]
    for epochs in (1, 2):
        checks.enough_data(adapt(batches, name="dl_train"), epochs)
        checks.enough_data(adapt(iter(batches), name="dl_train", steps=1, training=True), epochs)
    checks.enough_data(adapt(iter(batches), name="dl_train"), 1)
    assert message(DataError, checks.enough_data, adapt(iter(batches), name="dl_train"), 2) == (
        "dl_train is a generator or iterator, which can be read once, but 2 epochs were asked for. "
        "Pass a list or a DataLoader, or say steps_per_epoch=."
    )
    assert message(DataError, checks.enough_data, adapt(iter(batches), name="dl_val['easy']"), 2) == (
        "dl_val['easy'] is a generator or iterator, which can be read once, but 2 epochs were asked for. "
        "Pass a list or a DataLoader, or say validation_steps=."
    )


NAMED = {"a": torch.zeros(2, 3), "b": torch.zeros(2)}


GAVE = "The loss MSELoss compares one tensor with targets, but the net gave "
ARE = "The loss MSELoss compares with one tensor, but the targets of batch 0 are "


@pytest.mark.parametrize(
    ("output", "target", "text"),
    [
        (
            NAMED,
            torch.zeros(2, 3),
            f"{GAVE}{{'a': float32 (2, 3) cpu, 'b': float32 (2,) cpu}}. "
            "Say which loss is for which output: loss={'a': 'MSELoss'}.",
        ),
        (
            {"loss": torch.tensor(1.0)},
            torch.zeros(2, 3),
            f"{GAVE}{{'loss': float32 () cpu}}. Say which loss is for which output: loss={{'loss': 'MSELoss'}}. "
            "A net that returns its own loss needs none: leave out loss.",
        ),
        (
            (torch.zeros(2, 3), torch.zeros(2)),
            torch.zeros(2, 3),
            f"{GAVE}(float32 (2, 3) cpu, float32 (2,) cpu). "
            "Give each output its loss, or None: loss=['MSELoss', None].",
        ),
        (None, torch.zeros(2, 3), f"{GAVE}None. Return a tensor from forward, or a dict of them."),
        (
            torch.zeros(2, 3),
            NAMED,
            f"{ARE}{{'a': float32 (2, 3) cpu, 'b': float32 (2,) cpu}}. "
            "Say which loss is for which output: loss={name: 'MSELoss'}.",
        ),
        (
            torch.zeros(2, 3),
            ["cat", "dog"],
            f"{ARE}text. Number the classes: {{name: number for number, name in enumerate(sorted(set(names)))}}.",
        ),
        (torch.zeros(2, 3), [1, 2], f"{ARE}(int, int). Make them a tensor: torch.tensor(y)."),
    ],
)
def test_what_is_no_tensor_is_named(output, target, text):
    batch = Batch(0, torch.zeros(2), target)
    assert message(MismatchError, checks.first_batch, Loss(MSE), output, batch) == text


def test_weights_of_more_classes_than_outputs_are_named():
    loss = Loss(nn.CrossEntropyLoss()).by_classes(torch.ones(5))
    text = message(MismatchError, checks.first_batch, loss, torch.zeros(2, 3), Batch(0, None, whole(2)))
    assert text == "class_weight weighs 5 classes, labels 0 to 4, but the net has 3 outputs."


MISSING = torch.tensor([[1.0, float("nan")], [float("inf"), 2.0]])


@pytest.mark.parametrize(
    ("batch", "what"),
    [
        (Batch(0, MISSING, torch.zeros(2)), "inputs"),
        (Batch(0, (torch.zeros(2), {"a": MISSING})), "inputs"),
        (Batch(0, torch.zeros(2), MISSING), "targets"),
        (Batch(0, torch.zeros(2), torch.zeros(2), MISSING), "sample weights"),
    ],
)
def test_values_that_are_missing_are_named_before_they_spoil_the_net(batch, what):
    text = message(DataError, checks.nothing_missing, torch.tensor(float("nan"), requires_grad=True), batch)
    assert text == (
        f"The first loss is nan, and the {what} hold 2 values that are NaN or infinite, of 4 in batch 0. "
        "Type torch.nan_to_num(x), or fillna(...) or dropna() for a data frame."
    )


def test_missing_values_that_the_net_can_do_with_pass():
    checks.nothing_missing(torch.tensor(1.0), Batch(0, MISSING))
    checks.nothing_missing(torch.tensor(float("nan")), Batch(0, torch.zeros(2), torch.zeros(2, dtype=torch.long)))


def test_there_is_one_thing_to_validate_on():
    assert message(ValueError, checks.one_validation, [1], 0.2, False) == (
        "dl_val and validation_split are two things to validate on; give one of them."
    )
    assert message(ValueError, checks.one_validation, None, None, True) == (
        "stratify says how to split; say validation_split=0.2 as well."
    )
    checks.one_validation(None, 0.2, True)
    checks.one_validation([1], None, False)


def test_to_look_at_probabilities_that_are_learned_warns_of_nothing():
    model = kt.Model(nn.Sequential(nn.Linear(2, 1), nn.Sigmoid()))
    model.compile("bce", "sgd")
    torch.set_warn_always(True)  # else torch warns once per process, perhaps of something before
    try:
        model.fit(1, (torch.rand(8, 2), torch.ones(8, 1)), verbose=0)
    finally:
        torch.set_warn_always(False)
