import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import numpy as np
import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch.callbacks import RemoteMonitor

X, Y = torch.randn(8, 2), torch.randn(8, 1)


@pytest.fixture
def server():
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            server.got.append((self.path, dict(self.headers), body))
            self.send_response(server.status)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.got, server.status = [], 200
    server.root = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def fit(*callbacks, epochs=2):
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "sgd")
    model.fit(epochs, (X, Y), (X, Y), callbacks=list(callbacks), verbose=0, log_step_freq=1)
    return model


def test_json_is_the_history(server):
    model = fit(RemoteMonitor(server.root, send_as_json=True, headers={"Authorization": "Bearer x"}))
    got = [json.loads(body) for _, _, body in server.got]
    assert [values.pop("epoch") for values in got] == [0, 1]
    assert got == model.history.rows
    path, headers, _ = server.got[0]
    assert path == "/publish/epoch/end/"
    assert (headers["Content-Type"], headers["Authorization"]) == ("application/json", "Bearer x")


def test_a_form_holds_it_in_one_field(server):
    model = fit(RemoteMonitor(server.root, "/in", "values"), epochs=1)
    path, _, body = server.got[0]
    values = json.loads(parse_qs(body)["values"][0])
    assert path == "/in"
    assert values == {"epoch": 0, **model.history.rows[0]}


def test_arrays_of_one_number_are_numbers(server, scripted):
    given = {"a": [np.array([1.5])], "b": [np.float32(0.5)], "c": [torch.tensor([[2.0]])], "d": [np.array([1, 2])]}
    fit(RemoteMonitor(server.root, send_as_json=True), scripted(**given, e=[float("nan")]), epochs=1)
    values = json.loads(server.got[0][2])
    assert [values[name] for name in "abcde"] == [1.5, 0.5, 2.0, [1, 2], None]


def test_a_server_that_is_not_there_costs_one_warning():
    with pytest.warns(UserWarning, match="could not write: URLError: .*refused") as caught:
        model = fit(RemoteMonitor("http://127.0.0.1:9"))
    assert len(caught) == 1
    assert len(model.history["loss"]) == 2


def test_a_server_that_refuses_costs_one_warning(server):
    server.status = 500
    with pytest.warns(UserWarning, match="HTTP Error 500"):
        fit(RemoteMonitor(server.root))
    assert len(server.got) == 2


def test_only_epochs_are_posted(server):
    monitor = RemoteMonitor(server.root)
    model = fit(monitor, epochs=1)
    model.evaluate((X, Y), callbacks=[monitor])
    assert len(server.got) == 1


def test_the_address_is_one_of_the_web():
    with pytest.raises(ValueError, match="root is an address such as"):
        RemoteMonitor("localhost:9000")


def test_repr_is_the_call_without_passwords():
    assert repr(RemoteMonitor(headers={"Authorization": "secret"})) == (
        "RemoteMonitor('http://localhost:9000', '/publish/epoch/end/', 'data', headers={'Authorization': '...'}, "
        "send_as_json=False)"
    )


def test_what_cannot_be_sent_is_left_out(server, scripted):
    with pytest.warns(UserWarning, match="leaves out 'large': 10001 numbers are too many for a text"):
        model = fit(RemoteMonitor(server.root, send_as_json=True), scripted(large=[np.zeros(10_001)]), epochs=1)
    values = json.loads(server.got[0][2])
    assert values["loss"] == model.history["loss"][0]
    assert "large" not in values


def test_a_value_of_the_user_called_epoch_is_not_posted(server):
    monitor = RemoteMonitor(server.root)
    fit(monitor, kt.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: monitor.run.log({"epoch": 1})), epochs=1)
    assert len(server.got) == 1
