import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch.callbacks import GradientLogger

GENERATOR = torch.Generator().manual_seed(0)
DATA = [(torch.randn(4, 2, generator=GENERATOR), torch.randn(4, 1, generator=GENERATOR)) for _ in range(6)]


class Writer(kt.Callback):
    stage = "logger"

    def __init__(self):
        self.rows = []

    def on_train_begin(self, logs):
        self.run.writers.append(lambda step, values: self.rows.append((step, dict(values))))


def make_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))


def fit(callback, net=None, *, epochs=1, data=DATA, model=None, optimizer=None, writer=None):
    if model is None:
        model = kt.Model(make_net() if net is None else net)
        model.compile("mse", optimizer or (lambda parameters: torch.optim.SGD(parameters, lr=0.1)))
    writer = writer or Writer()
    model.fit(epochs, data, callbacks=[callback, writer], verbose=0)
    return writer.rows


def by_hand():
    net = make_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    rows = []
    for step, (x, y) in enumerate(DATA, 1):
        loss = nn.functional.mse_loss(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        norms = {name: part.grad.norm().item() for name, part in net.named_parameters()}
        before = {name: part.detach().clone() for name, part in net.named_parameters()}
        optimizer.step()
        changes = {name: (part.detach() - before[name]).norm().item() for name, part in net.named_parameters()}
        sizes = {name: part.norm().item() for name, part in before.items()}
        for values in (norms, changes, sizes):
            values["total"] = sum(value**2 for value in values.values()) ** 0.5
        row = {f"grad_norm/{name}": value for name, value in norms.items()}
        row |= {f"update_ratio/{name}": changes[name] / sizes[name] for name in changes}
        rows.append((step, row))
    return rows


def chosen(row, *prefixes):
    return {name: value for name, value in row.items() if name.startswith(prefixes)}


@pytest.mark.parametrize("every", [1, 2, 4])
def test_norms_and_ratios_are_those_of_a_loop_written_by_hand(every):
    rows = fit(GradientLogger(every, ratios=True))
    expected = [(step, row) for step, row in by_hand() if step % every == 0]
    assert [step for step, _ in rows] == [step for step, _ in expected]
    for (_, row), (_, wanted) in zip(rows, expected, strict=True):
        assert row == pytest.approx(wanted, rel=1e-4)
        assert all(type(value) is float for value in row.values())


def test_only_what_is_asked_for():
    _, wanted = by_hand()[5]
    (_, norms), *others = fit(GradientLogger(6))
    assert others == []
    assert norms == pytest.approx(chosen(wanted, "grad_norm"), rel=1e-4)
    (_, totals), *_ = fit(GradientLogger(6, per_layer=False, ratios=True))
    assert totals == pytest.approx(chosen(wanted, "grad_norm/total", "update_ratio/total"), rel=1e-4)


def test_training_is_the_same_as_without():
    nets = [make_net(), make_net()]
    fit(GradientLogger(1, ratios=True), nets[0])
    fit(kt.Callback(), nets[1])
    assert all(torch.equal(*pair) for pair in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


def test_one_transfer_per_log_and_none_between():
    transfers = []
    tolist = torch.Tensor.tolist
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "tolist", lambda tensor: transfers.append(tensor.shape) or tolist(tensor))
        fit(kt.Callback())
        without = len(transfers)
        fit(GradientLogger(3, ratios=True))
    assert len(transfers) == 2 * without + 2
    assert transfers.count((12,)) == 2  # four parameters: gradients, sizes and changes in one


def test_parameters_without_gradient_are_left_out():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused, self.frozen = nn.Linear(2, 1), nn.Linear(2, 1), nn.Linear(2, 2)
            self.frozen.requires_grad_(False)

        def forward(self, x):
            return self.used(self.frozen(x))

    (_, row), *_ = fit(GradientLogger(6, ratios=True), Net())
    assert sorted(row) == sorted(
        f"{kind}/{name}" for kind in ("grad_norm", "update_ratio") for name in ("total", "used.bias", "used.weight")
    )


def test_a_parameter_that_is_all_zero_has_no_ratio():
    net = nn.Linear(2, 1)
    nn.init.zeros_(net.bias)
    (_, row), *_ = fit(GradientLogger(1, ratios=True), net, data=DATA[:1])
    assert sorted(row) == [
        "grad_norm/bias",
        "grad_norm/total",
        "grad_norm/weight",
        *(f"update_ratio/{name}" for name in ("total", "weight")),
    ]


def test_a_gradient_that_overflows_is_shown():
    class Breaks(kt.Callback):
        def on_optimizer_step_begin(self, step):
            self.run.state.module[0].bias.grad.fill_(torch.inf)

    model = kt.Model(make_net())
    model.compile("mse", "sgd")
    writer = Writer()
    model.fit(1, DATA[:1], callbacks=[Breaks(), GradientLogger(1), writer], verbose=0)
    assert writer.rows[0][1]["grad_norm/0.bias"] == writer.rows[0][1]["grad_norm/total"] == torch.inf


def test_sparse_gradients_and_16_bits():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.EmbeddingBag(5, 2, sparse=True, mode="sum")
            self.layer = nn.Linear(2, 1).to(torch.bfloat16)

        def forward(self, x):
            return self.layer(self.table(x).bfloat16()).float()

    net = Net()
    weight = net.table.weight.detach().clone().requires_grad_()
    twin = nn.Linear(2, 1).to(torch.bfloat16)
    twin.load_state_dict(net.layer.state_dict())
    x, y = torch.tensor([[0, 1], [1, 1]]), torch.ones(2, 1)
    output = twin(nn.functional.embedding_bag(x, weight, mode="sum").bfloat16()).float()
    nn.functional.mse_loss(output, y).backward()
    (_, row), *_ = fit(GradientLogger(1, ratios=True), net, data=[(x, y)])
    assert row["grad_norm/table.weight"] == pytest.approx(weight.grad.norm().item(), rel=1e-5)
    assert row["grad_norm/layer.weight"] == pytest.approx(twin.weight.grad.float().norm().item(), rel=1e-5)


def test_without_a_logger_it_warns_once():
    model = kt.Model(make_net())
    model.compile("mse", "sgd")
    with pytest.warns(UserWarning, match="GradientLogger finds no logger to write with. Add one to the") as seen:
        model.fit(2, DATA, callbacks=[GradientLogger(1)], verbose=0)
    assert len(seen) == 1


def test_a_step_of_ones_own_tells_nobody_of_its_gradients():
    class Own(kt.Model):
        def train_step(self, batch):
            loss = nn.functional.mse_loss(self(batch.x), batch.y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            return {"loss": loss}

    model = Own(make_net())
    model.compile("mse", "sgd")
    with pytest.warns(UserWarning, match="GradientLogger saw no gradients: the train_step of this model does not"):
        fit(GradientLogger(1), model=model)


def test_steps_count_from_compile_and_a_second_fit_goes_on():
    model, writer, callback = kt.Model(make_net()), Writer(), GradientLogger(4)
    model.compile("mse", "sgd")
    fit(callback, model=model, writer=writer)
    fit(callback, model=model, writer=writer)
    assert [step for step, _ in writer.rows] == [4, 8, 12]


def test_a_net_whose_gradients_are_all_gone():
    class Clears(kt.Callback):
        def on_optimizer_step_begin(self, step):
            for parameter in self.run.state.module.parameters():
                parameter.grad = None

    model, writer = kt.Model(make_net()), Writer()
    model.compile("mse", "sgd")
    model.fit(1, DATA, callbacks=[Clears(), GradientLogger(1, ratios=True), writer], verbose=0)
    assert writer.rows == []


@pytest.mark.parametrize("every", [0, -1, 0.5])
def test_wrong_arguments(every):
    with pytest.raises(ValueError, match="every is a number of steps, 1 or more; got"):
        GradientLogger(every)


def test_repr_is_the_constructor_call():
    text = "GradientLogger(every=10, per_layer=False, ratios=True)"
    assert repr(eval(text)) == text
