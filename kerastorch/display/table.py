"""The text of torchkeras: steps as dicts, epochs as tables, time stamps between them."""

from __future__ import annotations

from datetime import datetime

from kerastorch.display.lines import shown
from kerastorch.display.screen import say
from kerastorch.history import format_number
from kerastorch.hooks import Callback, Logs, Stage


class TableLog(Callback):
    """Prints a line every `log_step_freq` steps, and a table per epoch; no control codes."""

    stage: Stage = "display"

    def on_train_begin(self, logs: Logs) -> None:
        """Begin."""
        print("Start Training ...")
        _print_bar()

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Print the running values."""
        every = self.run.log_step_freq
        if every and (batch + 1) % every == 0:
            say(str({"step": batch + 1, **{name: _rounded(value) for name, value in logs.items()}}))

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Print the table of the epoch."""
        from prettytable import PrettyTable

        values = shown(logs)
        table = PrettyTable(["epoch", *values])
        table.add_row([epoch + 1, *(format_number(value) for value in values.values())])
        say(f"\n{table}")
        _print_bar()

    def on_train_end(self, logs: Logs) -> None:
        """End."""
        print("Finished Training...", flush=True)


def _rounded(value: float) -> float:
    return round(value, 3) if abs(value) >= 0.001 else float(f"{value:.3g}")


def _print_bar() -> None:
    print(f"\n{'=' * 80}{datetime.now():%Y-%m-%d %H:%M:%S}", flush=True)
