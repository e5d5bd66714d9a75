import copy
import importlib.util
import re

import pytest
import torch
from PIL import Image
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.datasets import MNIST
from torchvision.transforms.functional import pil_to_tensor


@pytest.fixture(scope="module")
def gan_mnist(examples):
    spec = importlib.util.spec_from_file_location("gan_mnist", examples / "gan_mnist.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def images(real_data):
    return MNIST(real_data).data[:320, None] / 255


def make_gan(gan_mnist):
    torch.manual_seed(0)
    model = gan_mnist.Gan()
    model.compile(device="cpu")
    return model


def changed(before, net):
    return all(not torch.equal(old, new) for old, new in zip(before.parameters(), net.parameters(), strict=True))


def test_the_program_prints_both_losses_and_draws_digits(real_data, run_example, tmp_path):
    arguments = ["--data", real_data, "--quick", "--epochs", 2, "--device", "cpu"]
    text = run_example("gan_mnist.py", *arguments, cwd=tmp_path)
    assert text.count("| epoch | generator_loss | discriminator_loss |\n") == 2
    rows = re.findall(r"^\| +(\d) +\| +([\d.]+) +\| +([\d.]+) +\|$", text, re.M)
    assert [row[0] for row in rows] == ["1", "2"]
    assert all(0 < float(loss) < 10 for row in rows for loss in row[1:])

    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert files == [tmp_path / "runs/gan_mnist" / f"epoch_0{epoch}.png" for epoch in (1, 2)]
    first, second = (pil_to_tensor(Image.open(file).convert("L")) for file in files)
    assert first.shape == second.shape == (1, 242, 242)  # 8 x 8 images of 28 pixels, in frames of 2
    assert not torch.equal(first, second)
    digits = second[0, 2:].unfold(0, 28, 30).unfold(1, 28, 30).reshape(-1, 28 * 28)[:64].float()
    assert digits.std(1).min() > 20, "an image without contrast"
    assert digits.std(0).max() > 20, "always the same image"
    assert digits.mean() < 128, "the ink of real digits is less than half of the image"


def test_both_nets_learn_by_their_own_optimizers_and_by_no_other(gan_mnist, images):
    model = make_gan(gan_mnist)
    generator, discriminator = copy.deepcopy(model.generator), copy.deepcopy(model.discriminator)
    history = model.fit(2, images, batch_size=64, verbose=0)
    assert changed(generator, model.generator)
    assert changed(discriminator, model.discriminator)
    assert set(history.history) == {"generator_loss", "discriminator_loss", "seconds", "samples_per_second"}  # no lr
    assert history.epoch == [0, 1]
    for optimizer in (model.generator_optimizer, model.discriminator_optimizer):
        assert {int(state["step"]) for state in optimizer.state.values()} == {2 * 5}


def test_the_steps_are_those_of_a_loop_by_hand(gan_mnist, images):
    model, twin = make_gan(gan_mnist), make_gan(gan_mnist)
    torch.manual_seed(1)
    history = model.fit(1, images, batch_size=64, verbose=0)

    generator, discriminator, loss_function = twin.generator, twin.discriminator, binary_cross_entropy_with_logits
    adam = {"lr": 1e-3, "betas": (0.5, 0.999)}
    generator_optimizer = torch.optim.Adam(generator.parameters(), **adam)
    discriminator_optimizer = torch.optim.Adam(discriminator.parameters(), **adam)
    torch.manual_seed(1)
    losses = []
    for chosen in torch.randperm(len(images)).split(64):
        fake = generator(torch.randn(64, 20))
        discriminator_optimizer.zero_grad()
        real_scores, fake_scores = discriminator(images[chosen]), discriminator(fake.detach())
        discriminator_loss = (
            loss_function(real_scores, torch.ones(64, 1)) + loss_function(fake_scores, torch.zeros(64, 1))
        ) / 2
        discriminator_loss.backward()
        discriminator_optimizer.step()
        generator_optimizer.zero_grad()
        generator_loss = loss_function(discriminator(fake), torch.ones(64, 1))
        generator_loss.backward()
        generator_optimizer.step()
        losses.append((generator_loss.item(), discriminator_loss.item()))

    expected = twin.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    means = torch.tensor(losses, dtype=torch.float64).mean(0).tolist()
    assert [history["generator_loss"][0], history["discriminator_loss"][0]] == pytest.approx(means, rel=1e-6)


def test_drawing_in_the_middle_of_training_leaves_no_trace(gan_mnist, images):
    model, drawing = make_gan(gan_mnist), make_gan(gan_mnist)
    draw = gan_mnist.kt.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: drawing.predict(torch.ones(4, 20)))
    for gan, callbacks in ((model, []), (drawing, [draw])):
        torch.manual_seed(1)
        gan.fit(2, images, batch_size=64, verbose=0, callbacks=callbacks)
    expected = model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in drawing.state_dict().items())
