"""Train torchvision's ResNet-34 on CIFAR-10, with curves for TensorBoard and a checkpoint after each epoch.

python examples/resnet34_cifar10.py
tensorboard --logdir logs
"""

import torch
from cifar10_data import load_data, parse_arguments
from torchvision.models import resnet34

import kerastorch as kt


def main():
    args = parse_arguments(__doc__, epochs=20)
    torch.manual_seed(0)
    dl_train, dl_test = load_data(args.data, args.quick)

    model = kt.Model(resnet34(num_classes=10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model.compile(loss="cross_entropy", optimizer=optimizer, metrics=["accuracy"], device=args.device)
    callbacks = [
        kt.callbacks.TensorBoard("logs/resnet34"),
        kt.callbacks.ModelCheckpoint("runs/resnet34_cifar10/epoch_{epoch:02d}.pt"),
    ]
    history = model.fit(args.epochs, dl_train, dl_test, log_step_freq=5 if args.quick else 100, callbacks=callbacks)
    best = history.best("val_accuracy").epoch + 1  # the history counts from 0, the files from 1
    print(f"python examples/predict_image.py IMAGE runs/resnet34_cifar10/epoch_{best:02d}.pt --arch resnet34")


if __name__ == "__main__":
    main()
