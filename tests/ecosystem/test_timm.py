"""Nets of timm, without a download."""

import functools

import pytest
import torch

import kerastorch as kt

timm = pytest.importorskip("timm")


def images(count=24):
    random = torch.Generator().manual_seed(0)
    y = torch.arange(count) % 3
    x = 0.1 * torch.randn(count, 3, 32, 32, generator=random)
    x[torch.arange(count), y] += 1  # the class is the channel that is bright
    return x, y


def net(name="test_resnet"):
    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False, num_classes=3)


@pytest.mark.parametrize("name", ["test_resnet", "resnet18"])
def test_a_net_trains(name):
    model = kt.Model(net(name))
    model.compile("cross_entropy", functools.partial(torch.optim.Adam, lr=1e-3), ["accuracy"])
    history = model.fit(3, images(), images(), batch_size=8, seed=0, verbose=0)
    assert history["loss"][-1] < history["loss"][0]
    assert model.predict(images()).shape == (24, 3)


def test_training_the_head_alone_leaves_the_backbone_as_it_is():
    model = kt.Model(net())
    model.freeze("*")
    model.unfreeze("fc")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.compile("cross_entropy", "adam")
    model.fit(1, images(), batch_size=8, verbose=0)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"fc.weight", "fc.bias"}


def test_groups_by_layer():
    model = kt.Model(net())
    groups = kt.optimizers.groups(model, {"fc": {"lr": 1e-2}, "*.bias": {"weight_decay": 0}})
    optimizer = torch.optim.AdamW(groups, lr=1e-4)
    model.compile("cross_entropy", optimizer)
    model.fit(1, images(), batch_size=8, verbose=0)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [1e-4, 1e-2]


def test_a_loss_and_an_optimizer_of_timm():
    loss, optim = pytest.importorskip("timm.loss"), pytest.importorskip("timm.optim")
    model = kt.Model(net())
    model.compile(
        loss.LabelSmoothingCrossEntropy(0.1), functools.partial(optim.create_optimizer_v2, opt="lamb", lr=1e-2)
    )
    history = model.fit(3, images(), batch_size=8, seed=0, verbose=0)
    assert history["loss"][-1] < history["loss"][0]


def test_a_scheduler_of_timm_sets_the_rate_of_each_epoch():
    scheduler = pytest.importorskip("timm.scheduler")
    model = kt.Model(net())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    cosine = scheduler.CosineLRScheduler(optimizer, t_initial=4, warmup_t=1, warmup_lr_init=0.01)
    model.compile("cross_entropy", optimizer)
    step = kt.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: cosine.step(epoch + 1))
    history = model.fit(4, images(), batch_size=8, callbacks=[step], verbose=0)
    expected = [0.01, *(0.05 * (1 + torch.cos(torch.tensor(epoch * torch.pi / 4))).item() for epoch in (1, 2, 3))]
    assert history["lr"] == pytest.approx(expected)
