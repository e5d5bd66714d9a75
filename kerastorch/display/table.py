"""The text of torchkeras: steps as dicts, epochs as tables, time stamps between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from kerastorch.display.lines import going_on, shown
from kerastorch.display.screen import say
from kerastorch.history import format_number
from kerastorch.hooks import Callback, Logs, Stage


class TableLog(Callback):
    """Prints a line every `log_step_freq` steps, and a table per epoch; no control codes."""

    stage: Stage = "display"

    def on_train_begin(self, logs: Logs) -> None:
        """Begin."""
        print("Start Training ...")
        history = self.run.state.history
        if text := going_on(self.run):
            say(text)
        if history.rows:
            say(_table(history.epoch, history.rows))
        _print_bar()

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Print the running values."""
        every = self.run.log_step_freq
        if every and (batch + 1) % every == 0:
            say(str({"step": batch + 1, **{name: _rounded(value) for name, value in logs.items()}}))

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Print the table of the epoch."""
        say(_table([epoch], [logs]))
        _print_bar()

    def on_train_end(self, logs: Logs) -> None:
        """End."""
        print("Finished Training...", flush=True)


def _table(epochs: Sequence[int], rows: Sequence[Mapping[str, Any]]) -> str:
    from prettytable import PrettyTable

    values = [shown(row) for row in rows]
    names = list(dict.fromkeys(name for row in values for name in row))
    table = PrettyTable(["epoch", *names])
    for epoch, row in zip(epochs, values, strict=True):
        table.add_row([epoch + 1, *(format_number(row[name]) if name in row else "-" for name in names)])
    return f"\n{table}"


def _rounded(value: float) -> float:
    return round(value, 3) if abs(value) >= 0.001 else float(f"{value:.3g}")


def _print_bar() -> None:
    print(f"\n{'=' * 80}{datetime.now():%Y-%m-%d %H:%M:%S}", flush=True)
