"""The values of each epoch for a web server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

from kerastorch.callbacks.logger import Logger
from kerastorch.callbacks.values import as_array, plain

_TIMEOUT = 3.0  # seconds; training waits for it


class RemoteMonitor(Logger):
    """Posts the values of each epoch to a web server: `{"epoch": 0, "loss": 0.21, ...}`, epochs counted from 0.

    NaN and infinity are `null`, arrays are lists, one number in an array is a number. What JSON cannot hold is left out
    with a warning, and so are arrays of more than 10,000 numbers. A server that refuses costs a warning, and the next
    epoch tries again. So does one that does not answer within 3 seconds, but then nothing is sent for half a minute.

    Example:
        >>> kt.callbacks.RemoteMonitor("http://localhost:9000")

    Args:
        root: The server.
        path: The page to post to.
        field: The field of the form that holds the values as JSON, unless `send_as_json`.
        headers: Headers to send.
        send_as_json: Whether the values are the whole body, as `application/json`.

    Raises:
        ValueError: `root` is no address on the web.
    """

    update_freq = "epoch"

    def __init__(
        self,
        root: str = "http://localhost:9000",
        path: str = "/publish/epoch/end/",
        field: str = "data",
        headers: Mapping[str, str] | None = None,
        send_as_json: bool = False,
    ) -> None:
        if urlsplit(root).scheme not in ("http", "https"):
            raise ValueError(f"root is an address such as 'http://localhost:9000'; got {root!r}.")
        self.root = root
        self.path = path
        self.field = field
        self.headers = dict(headers or {})
        self.send_as_json = send_as_json

    def __repr__(self) -> str:
        headers = dict.fromkeys(self.headers, "...") or None  # they may hold a password
        return (
            f"RemoteMonitor({self.root!r}, {self.path!r}, {self.field!r}, headers={headers}, "
            f"send_as_json={self.send_as_json})"
        )

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Post the values of an epoch; others are not sent."""
        if self._epoch is None:
            return
        from urllib.request import Request, urlopen  # brings http and ssl along

        row = {}
        for name, value in values.items():
            with self.leaving_out(name):
                row[name] = _unwrapped(value)
        text = json.dumps(row, allow_nan=False)
        body = text if self.send_as_json else urlencode({self.field: text})
        form = "application/json" if self.send_as_json else "application/x-www-form-urlencoded"
        headers = {"Content-Type": form, **self.headers}
        with urlopen(Request(self.root + self.path, body.encode(), headers), timeout=_TIMEOUT) as answer:
            answer.read()


def _unwrapped(value: Any) -> Any:
    array = as_array(value)
    return plain(array.item() if array is not None and array.size == 1 else value)
