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

    NaN and infinity are `null`, arrays are lists, one number in an array is a number. A server that does not answer
    within 3 seconds, or refuses, costs a warning; the next epoch tries again.

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
        if "epoch" not in values:
            return
        from urllib.request import Request, urlopen  # brings http and ssl along

        text = json.dumps({name: _unwrapped(value) for name, value in values.items()}, allow_nan=False)
        body = text if self.send_as_json else urlencode({self.field: text})
        form = "application/json" if self.send_as_json else "application/x-www-form-urlencoded"
        headers = {"Content-Type": form, **self.headers}
        with urlopen(Request(self.root + self.path, body.encode(), headers), timeout=_TIMEOUT) as answer:
            answer.read()


def _unwrapped(value: Any) -> Any:
    array = as_array(value)
    return plain(array.item() if array is not None and array.size == 1 else value)
