"""Flags by which callbacks that were written for Keras end what is running."""

from __future__ import annotations

from typing import Any

from kerastorch.assembly import Session
from kerastorch.errors import BusyError


class StopFlag:
    """A flag of a model by which callbacks that were written for Keras end what is running.

    Args:
        verb: `"training"` ends after this batch, with its validation; the others at once, and not inside `fit`.
    """

    def __init__(self, verb: str) -> None:
        self._verb = verb

    def __get__(self, model: Any, owner: type) -> Any:
        return self if model is None else model._session.stops(whole_fit=self._verb == "training")

    def __set__(self, model: Any, value: bool) -> None:
        session: Session = model._session
        if not value:
            return
        if self._verb == "training":
            session.stop("model.stop_training")
        elif session.running is not None and session.running[0].trains:
            raise BusyError(f"model.stop_{self._verb} is for evaluate and predict. In fit type validation_steps=...")
        elif session.running is not None:
            session.running[0].interrupt(f"model.stop_{self._verb}")
