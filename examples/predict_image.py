"""Say what is on an image, with a checkpoint that cifar10.py or resnet34_cifar10.py wrote, on any machine.

python examples/predict_image.py dog.jpg runs/cifar10/epoch_10.pt
python examples/predict_image.py dog.jpg runs/resnet34_cifar10/epoch_20.pt --arch resnet34
"""

import argparse

from cifar10 import Cnn
from PIL import Image
from torchvision.models import resnet34
from torchvision.transforms import Compose, Resize, ToTensor

import kerastorch as kt


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", help="file with the image, of any size")
    parser.add_argument("checkpoint", help="file with the weights and the names of the classes")
    parser.add_argument("--arch", choices=["cnn", "resnet34"], default="cnn", help="the net that was trained")
    return parser.parse_args()


def main():
    args = parse_arguments()
    model = kt.load_model(args.checkpoint, Cnn() if args.arch == "cnn" else resnet34(num_classes=10))

    transform = Compose([Resize((32, 32)), ToTensor()])
    image = transform(Image.open(args.image).convert("RGB"))
    scores = model.predict_on_batch(image[None])  # a batch of one image: (1, 3, 32, 32)
    probability, label = scores.softmax(dim=1).max(dim=1)
    print(f"{model.classes[label]}: {probability.item():.1%}")


if __name__ == "__main__":
    main()
