"""Train a GAN on MNIST, by a train_step of its own with two optimizers; about three minutes on a CPU.

python examples/gan_mnist.py
"""

import argparse
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torchvision.datasets import MNIST
from torchvision.utils import save_image

import kerastorch as kt


class Gan(kt.Model):
    """A generator that draws digits out of noise, and a discriminator that tells them from real ones."""

    def __init__(self):
        super().__init__()
        small = nn.Sequential(nn.Linear(20, 64 * 7 * 7), nn.Unflatten(1, (64, 7, 7)), nn.BatchNorm2d(64), nn.ReLU())
        larger = nn.Sequential(nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.generator = nn.Sequential(small, larger, nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1), nn.Sigmoid())
        edges = nn.Sequential(nn.Conv2d(1, 32, 5, stride=2, padding=2), nn.LeakyReLU(0.2))
        shapes = nn.Sequential(nn.Conv2d(32, 64, 5, stride=2, padding=2), nn.BatchNorm2d(64), nn.LeakyReLU(0.2))
        self.discriminator = nn.Sequential(edges, shapes, nn.Flatten(), nn.Linear(64 * 7 * 7, 1))
        self.generator_optimizer = torch.optim.Adam(self.generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
        self.discriminator_optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=1e-3, betas=(0.5, 0.999))

    def forward(self, noise):
        """Draw an image for each row of noise; predict calls it."""
        return self.generator(noise)

    def train_step(self, batch):
        """Teach the discriminator, then the generator to deceive it; fit calls it for each batch of images."""
        real = batch.x
        drawn = self(torch.randn(len(real), 20, device=real.device))
        yes, no = real.new_ones(len(real), 1), real.new_zeros(len(real), 1)
        loss_real = cross_entropy(self.discriminator(real), yes)
        loss_drawn = cross_entropy(self.discriminator(drawn.detach()), no)  # the generator learns nothing here
        discriminator_loss = (loss_real + loss_drawn) / 2
        update(self.discriminator_optimizer, discriminator_loss)

        generator_loss = cross_entropy(self.discriminator(drawn), yes)
        update(self.generator_optimizer, generator_loss)
        return {"generator_loss": generator_loss, "discriminator_loss": discriminator_loss}


def update(optimizer, loss):
    optimizer.zero_grad()  # also what the loss of the other net has left
    loss.backward()
    optimizer.step()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="DIR", help="folder with MNIST/raw; without it MNIST is downloaded to data/")
    parser.add_argument("--epochs", type=int, default=4, metavar="N", help="rounds through the data (4)")
    parser.add_argument("--quick", action="store_true", help="only try it out, on a part of the data")
    parser.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps ...")
    args = parser.parse_args()
    torch.manual_seed(0)
    images = MNIST(args.data or "data", download=args.data is None).data[: 2560 if args.quick else None]
    images = images[:, None] / 255  # (N, 1, 28, 28), between 0 and 1

    model, noise, folder = Gan(), torch.randn(64, 20), Path("runs/gan_mnist")
    folder.mkdir(parents=True, exist_ok=True)

    def draw(epoch, logs):
        save_image(model.predict(noise), folder / f"epoch_{epoch + 1:02d}.png")

    model.compile(device=args.device)  # no loss, no optimizer: train_step has its own
    model.fit(args.epochs, images, batch_size=64, callbacks=[kt.callbacks.LambdaCallback(on_epoch_end=draw)])


if __name__ == "__main__":
    main()
