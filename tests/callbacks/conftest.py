import pytest
import torch

import kerastorch as kt


class Scripted(kt.Callback):
    """Writes values into the logs in place of a real validation, and the number of the epoch into every weight."""

    def __init__(self, **values):
        self.values = values

    def on_epoch_end(self, epoch, logs):
        for name, column in self.values.items():
            if column[epoch] is not None:
                logs[name] = column[epoch]
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.fill_(epoch)


@pytest.fixture
def scripted():
    return Scripted
