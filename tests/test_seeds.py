"""Programs of tutorials for beginners run as they are written there."""

import os
import re
import subprocess
import sys

import torch
import torchvision
from torch import nn
from torch.nn import Conv2d, Flatten, Linear, MaxPool2d, Sequential
from torch.utils.data import DataLoader, Subset

import kerastorch as kt
from tests.programs import WARNINGS_ARE_ERRORS

# The class style of "three ways to train a model": other are only the imports, download and num_workers
CLASS_STYLE = """
import torch
from torch import nn
import kerastorch as torchkeras
from kerastorch import summary, Model

import torchvision
from torchvision import transforms

transform = transforms.Compose([transforms.ToTensor()])

ds_train = torchvision.datasets.MNIST(root="./data/minist/",train=True,download=False,transform=transform)
ds_valid = torchvision.datasets.MNIST(root="./data/minist/",train=False,download=False,transform=transform)

dl_train =  torch.utils.data.DataLoader(ds_train, batch_size=128, shuffle=True, num_workers=0)
dl_valid =  torch.utils.data.DataLoader(ds_valid, batch_size=128, shuffle=False, num_workers=0)

print(len(ds_train))
print(len(ds_valid))

class CnnModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([
            nn.Conv2d(in_channels=1,out_channels=32,kernel_size = 3),
            nn.MaxPool2d(kernel_size = 2,stride = 2),
            nn.Conv2d(in_channels=32,out_channels=64,kernel_size = 5),
            nn.MaxPool2d(kernel_size = 2,stride = 2),
            nn.Dropout2d(p = 0.1),
            nn.AdaptiveMaxPool2d((1,1)),
            nn.Flatten(),
            nn.Linear(64,32),
            nn.ReLU(),
            nn.Linear(32,10)]
        )
    def forward(self,x):
        for layer in self.layers:
            x = layer(x)
        return x
model = torchkeras.Model(CnnModel())
print(model)

model.summary(input_shape=(1,32,32))

from sklearn.metrics import accuracy_score

def accuracy(y_pred,y_true):
    y_pred_cls = torch.argmax(nn.Softmax(dim=1)(y_pred),dim=1).data
    return accuracy_score(y_true.numpy(),y_pred_cls.numpy())

model.compile(loss_func = nn.CrossEntropyLoss(),
             optimizer= torch.optim.Adam(model.parameters(),lr = 0.02),
             metrics_dict={"accuracy":accuracy})

dfhistory = model.fit(3,dl_train = dl_train, dl_val=dl_valid, log_step_freq=100)
"""

BAR = r"={80}\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
RULE = r"\+-------\+-------\+----------\+----------\+--------------\+"
PRINTED = rf"""60000
10000
CnnModel\(
  \(layers\): ModuleList\(
(?:    .*\n){{10}}  \)
\)
-{{64}}
        Layer \(type\)               Output Shape         Param #
={{64}}
(?:.*\n){{10}}={{64}}
Total params: 53,994
(?:.*\n){{7}}-{{64}}
Start Training \.\.\.

{BAR}
{{'step': 100, 'loss': (\d\.\d+), 'accuracy': (\d\.\d+)}}

{RULE}
\| epoch \|  loss \| accuracy \| val_loss \| val_accuracy \|
{RULE}
\|   1   \| (\d\.\d{{3}}) \|  (\d\.\d{{3}})   \|  (\d\.\d{{3}})   \|    (\d\.\d{{3}})     \|
{RULE}

{BAR}
Finished Training\.\.\.
"""


def test_the_class_style_program_runs_with_its_imports_changed(real_data, tmp_path):
    program = CLASS_STYLE
    for text, shorter in (
        ('"./data/minist/"', repr(str(real_data))),
        ("DataLoader(ds_train,", "DataLoader(torch.utils.data.Subset(ds_train, range(12800)),"),
        ("DataLoader(ds_valid,", "DataLoader(torch.utils.data.Subset(ds_valid, range(1000)),"),
        ("model.fit(3,", "torch.manual_seed(0); model.fit(1,"),
    ):
        assert text in program
        program = program.replace(text, shorter)

    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    command = [sys.executable, *WARNINGS_ARE_ERRORS, "program.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, check=False, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    found = re.fullmatch(PRINTED, done.stdout)
    assert found, done.stdout
    step_loss, step_accuracy, loss, accuracy, _, val_accuracy = map(float, found.groups())
    assert abs(step_loss - loss) < 0.001  # the epoch has 100 steps, so that its last line is the epoch
    assert abs(step_accuracy - accuracy) < 0.001
    assert val_accuracy > 0.8


# The network and the loop of a tutorial on CIFAR-10, without its counters
class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.model1 = Sequential(
            Conv2d(in_channels=3, out_channels=32, kernel_size=5, padding=2),
            MaxPool2d(kernel_size=2),
            Conv2d(in_channels=32, out_channels=32, kernel_size=5, padding=2),
            MaxPool2d(kernel_size=2),
            Conv2d(in_channels=32, out_channels=64, kernel_size=5, padding=2),
            MaxPool2d(kernel_size=2),
            Flatten(),
            Linear(in_features=1024, out_features=64),
            Linear(in_features=64, out_features=10),
        )

    def forward(self, x):
        return self.model1(x)


def plain_loop(network, train_dataloader, test_dataloader):
    """Return loss, as the mean over all samples, and number of right answers."""
    loss_fn = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-2)
    network.train()
    for imgs, targets in train_dataloader:
        outputs = network(imgs)
        loss = loss_fn(outputs, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    total_test_loss, total_accuracy = 0.0, 0
    network.eval()
    with torch.no_grad():
        for imgs, targets in test_dataloader:
            outputs = network(imgs)
            total_test_loss += loss_fn(outputs, targets).item() * len(targets)
            total_accuracy += (outputs.argmax(1) == targets).sum().item()
    return total_test_loss, total_accuracy


def some_images(folder, count):
    images = torchvision.datasets.ImageFolder(folder, transform=torchvision.transforms.ToTensor())
    return Subset(images, range(0, len(images), len(images) // count)[:count])


def test_fit_equals_the_plain_loop_on_cifar10(real_data):
    train_data = some_images(real_data / "cifar10/train", 5000)
    test_data = some_images(real_data / "cifar10/test", 1000)
    networks, results = [], []
    for run in (plain_loop, fit):
        torch.manual_seed(1)
        networks.append(Network())
        results.append(run(networks[-1], DataLoader(train_data, 64, shuffle=True), DataLoader(test_data, 64)))

    by_hand, by_fit = networks
    assert all(torch.equal(p, q) for p, q in zip(by_hand.parameters(), by_fit.parameters(), strict=True))
    (loss, right), history = results
    assert history["val_accuracy"] == [right / 1000]
    assert abs(history["val_loss"][0] - loss / 1000) < 1e-6


def fit(network, train_dataloader, test_dataloader):
    model = kt.Model(network)
    model.compile(nn.CrossEntropyLoss(), torch.optim.SGD(network.parameters(), lr=1e-2), ["accuracy"], device="cpu")
    return model.fit(1, train_dataloader, test_dataloader, verbose=0)
