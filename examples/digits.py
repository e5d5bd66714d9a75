"""Learn to read handwritten digits in a few seconds: needs no download, no GPU and no options.

python examples/digits.py
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import kerastorch as kt

digits = load_digits()  # 1797 handwritten digits of 8 x 8 pixels
x, y = digits.images[:, None] / 16, digits.target
x_train, x_val, y_train, y_val = train_test_split(x, y, test_size=0.2, stratify=y, random_state=0)

torch.manual_seed(0)
convolutions = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU())
net = nn.Sequential(convolutions, nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(1024, 10))

model = kt.Model(net)
optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
model.compile(loss="cross_entropy", optimizer=optimizer, metrics=["accuracy"])
model.fit(20, (x_train, y_train), (x_val, y_val), batch_size=64)
print(model.evaluate((x_val, y_val)))

outputs = model.predict(x_val[:10])
print("predicted:", *outputs.argmax(1).tolist())
print("they are: ", *y_val[:10].tolist())
