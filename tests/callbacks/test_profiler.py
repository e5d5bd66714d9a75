import copy
import gzip
import json
import pickle
import sys
import time
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import kerastorch as kt
from kerastorch.callbacks import LambdaCallback, Profiler
from kerastorch.callbacks import profiler as module_of_profiler
from kerastorch.data.memory import TensorSource

PAUSE = 0.01


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 2))


def batches(count=10):
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 4, generator=generator), torch.randint(2, (8,), generator=generator)) for _ in range(count)]


def model(optimizer="adam", metrics=("accuracy",), kind=kt.Model):
    found = kind(net())
    found.compile("cross_entropy", optimizer, list(metrics), device="cpu")
    return found


def profiled(data=None, *, epochs=2, callbacks=(), of=None, dl_val=None, **options):
    profiler = Profiler(**options)
    (of or model()).fit(epochs, data or batches(), dl_val, callbacks=[profiler, *callbacks], verbose=0)
    return profiler.report


@pytest.fixture(scope="module", autouse=True)
def warm():
    """What is imported at the first step is no part of what is measured."""
    model().fit(1, batches(), batches(), verbose=0)


class Images(Dataset):
    def __init__(self, pause=0.0):
        self.pause = pause

    def __len__(self):
        return 80

    def __getitem__(self, index):
        time.sleep(self.pause / 8)
        return torch.full((4,), float(index)), index % 2


class SlowSGD(torch.optim.SGD):
    def step(self, closure=None):
        time.sleep(PAUSE)
        return super().step(closure)


class Slow(kt.Callback):
    def on_train_batch_end(self, batch, logs):
        time.sleep(PAUSE)


def slow_metric(y_pred, y_true):
    time.sleep(PAUSE)
    return (y_pred.argmax(1) == y_true).float().mean()


class SlowInTesting(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        time.sleep(0 if self.training else PAUSE)
        return self.net(x)


class SlowNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        time.sleep(PAUSE)
        return self.net(x)


def slept(report, part):
    """Twenty pauses are found where they are, and nearly nothing elsewhere."""
    assert report.seconds[part] >= 20 * PAUSE
    assert next(iter(report.seconds)) == part
    assert report.share(part) > 0.5


def test_a_slow_dataset_is_found(capsys):
    report = profiled(DataLoader(Images(PAUSE), 8))
    slept(report, "waiting for data")
    assert report.advice.startswith(f"{100 * report.share('waiting for data'):.0f} % of the time was spent waiting")
    assert "raise num_workers from 0" in report.advice
    assert capsys.readouterr().out == f"{report}\n"


def test_a_slow_callback_is_found():
    report = profiled(callbacks=[Slow()])
    slept(report, "callback Slow")
    assert "in Slow.on_train_batch_end: do less there, or only every 100th batch" in report.advice


def test_a_slow_optimizer_is_found():
    report = profiled(of=model(lambda parameters: SlowSGD(parameters, lr=0.1)))
    slept(report, "optimizer")
    assert "in optimizer.step(): take one of torch.optim in place of SlowSGD" in report.advice


def test_a_slow_metric_is_found():
    report = profiled(of=model(metrics=["accuracy", slow_metric]))
    slept(report, "metrics")
    assert "on the metric 'slow_metric': leave it to the validation" in report.advice


def test_a_metric_that_is_slow_at_the_end_of_the_epoch_is_found():
    class Late(kt.metrics.Metric):
        def measure(self, output, target, weight, size):
            return 1.0, 1

        def value(self, sums):
            time.sleep(10 * PAUSE)
            return 1.0

    slept(profiled(of=model(metrics=[Late()])), "metrics")


def test_a_slow_validation_is_found():
    found = kt.Model(SlowInTesting())
    found.compile("cross_entropy", "adam", device="cpu")
    report = profiled(of=found, dl_val=batches())
    slept(report, "validation")
    assert "validation_freq=5" in report.advice


def test_data_of_the_validation_are_its_own():
    slept(profiled(dl_val=DataLoader(Images(PAUSE), 8)), "validation")


def test_a_slow_net_is_no_bottleneck():
    found = kt.Model(SlowNet())
    found.compile("cross_entropy", "adam", device="cpu")
    report = profiled(of=found)
    slept(report, "forward")
    assert report.advice.endswith("nothing stands in its way.")


def test_a_slow_backward_is_charged_to_it():
    class Pause(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x.clone()

        @staticmethod
        def backward(context, gradient):
            time.sleep(PAUSE)
            return gradient

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, x):
            return Pause.apply(self.net(x))

    found = kt.Model(Net())
    found.compile("cross_entropy", "adam", device="cpu")
    slept(profiled(of=found), "backward")


def test_a_slow_transfer_is_charged_to_it():
    class Far(kt.callbacks.DeviceTransfer):
        def prepare_batch(self, batch):
            time.sleep(PAUSE)
            return super().prepare_batch(batch)

    slept(profiled(callbacks=[Far("cpu")]), "transfer")


def test_tiny_steps_ask_for_larger_batches():
    found = kt.Model(nn.Linear(4, 2))
    found.compile("cross_entropy", "sgd", device="cpu")
    report = profiled(batches(200), of=found)
    assert report.steps == 400
    assert "a larger batch_size does more in each" in report.advice


def test_the_parts_add_up_and_little_is_left_over():
    def left_over():
        began = time.perf_counter()
        found.fit(2, data, data[:50], callbacks=[profiler], verbose=0)
        elapsed = time.perf_counter() - began
        report = profiler.report
        assert report.total == pytest.approx(sum(report.seconds.values()))
        assert report.total <= elapsed
        assert [part for part in PARTS if report.share(part) <= 0] == []
        return max(report.share("other"), 1 - report.total / elapsed)

    data, profiler, found = batches(300), Profiler(), model()
    assert min(left_over() for _ in range(3)) < 0.05  # the machine is shared


PARTS = ["waiting for data", "transfer", "forward", "backward", "optimizer", "metrics", "validation", "other"]


def trained(callbacks, **options):
    found = model(metrics=["accuracy", "f1", slow_metric])
    torch.manual_seed(5)
    x, y = torch.randn(40, 4), torch.randint(2, (40,))
    found.fit(3, (x, y), (x[:16], y[:16]), callbacks=callbacks, verbose=0, batch_size=8, **options)
    rows = [
        {name: row[name] for name in row if name not in ("seconds", "samples_per_second")} for row in found.history.rows
    ]
    return found, rows, torch.rand(3)


def test_it_changes_no_number(tmp_path):
    (plain, rows, drawn), (watched, same_rows, same_drawn) = trained([]), trained([Profiler(tmp_path / "trace.json")])
    assert rows == same_rows
    assert torch.equal(drawn, same_drawn)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, watched.state_dict()[name]), name


def test_without_it_nothing_is_in_between():
    found, seen = model(), []

    class Look(kt.Callback):
        def on_train_batch_end(self, batch, logs):
            run, hooks = self.model._session.running
            parts = [run.strategy, run.train_data, run.state.metrics, *run.state.metrics.metrics.values()]
            seen.append({type(part).__module__.partition(".")[2] for part in parts})
            assert all(listener.__self__ in hooks.callbacks for listener in hooks._listeners["on_train_batch_end"])
            assert type(run.train_step).__name__ == "partial"

    for callbacks in ([Look()], [Look()]):
        found.fit(1, batches(1), callbacks=callbacks, verbose=0)
    assert all("profiler.clock" not in modules for modules in seen)
    profiled(batches(2), of=found)
    found.fit(1, batches(1), callbacks=[Look()], verbose=0)
    assert all("profiler.clock" not in modules for modules in seen)


def fails(batch, logs):
    if batch == 3:
        raise ZeroDivisionError


@pytest.mark.parametrize("hook", ["on_train_batch_begin", "on_test_batch_end"])
def test_an_error_leaves_nothing_behind_and_prints_nothing(hook, capsys):
    found, profiler = model(), Profiler()
    metrics = found._session.state.metrics
    with pytest.raises(ZeroDivisionError):
        found.fit(2, batches(), batches(), callbacks=[profiler, LambdaCallback(**{hook: fails})], verbose=0)
    assert capsys.readouterr().out == ""
    assert profiler.report.share("forward") > 0
    assert type(metrics.metrics["accuracy"]) is kt.metrics.Accuracy
    assert profiler._clock is None
    assert len(found.fit(2, batches(), verbose=0)) == 2


def test_an_error_names_the_callback_that_made_it():
    class Bad(kt.Callback):
        def prepare_batch(self, batch):
            return None

    with pytest.raises(TypeError, match="prepare_batch of Bad must return a Batch"):
        profiled(callbacks=[Bad()])


def test_an_on_exception_that_fails_is_named():
    class Bad(kt.Callback):
        def on_exception(self, error):
            raise ValueError("second")

    with pytest.raises(ZeroDivisionError) as caught:
        profiled(callbacks=[LambdaCallback(on_train_batch_end=fails), Bad()])
    if sys.version_info >= (3, 11):
        assert any("on_exception of Bad failed as well" in note for note in caught.value.__notes__)


def test_training_that_ends_early_is_reported(capsys):
    class Stop(kt.Callback):
        def on_train_batch_end(self, batch, logs):
            self.run.interrupt("enough")

    report = profiled(callbacks=[Stop()])
    assert report.steps == 1
    assert "Where the time went" in capsys.readouterr().out


def test_each_fit_begins_anew():
    profiler, found = Profiler(), model()
    found.fit(1, batches(10), callbacks=[profiler], verbose=0)
    first = profiler.report
    found.fit(1, batches(4), callbacks=[profiler], verbose=0)
    assert (first.steps, profiler.report.steps) == (10, 4)


def test_two_callbacks_of_a_class_are_told_apart():
    report = profiled(callbacks=[Slow(), Slow()])
    assert report.seconds["callback Slow"] > 20 * PAUSE
    assert report.seconds["callback Slow 2"] > 20 * PAUSE


@dataclass
class Unhashable(kt.Callback):
    pause: float

    def on_epoch_end(self, epoch, logs):
        time.sleep(10 * self.pause)


def test_a_callback_may_be_a_dataclass():
    slept(profiled(callbacks=[Unhashable(PAUSE)]), "callback Unhashable")


class Own(kt.Model):
    def train_step(self, batch):
        loss = nn.functional.cross_entropy(self(batch.x), batch.y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach()}


class Further(kt.Model):
    def train_step(self, batch):
        time.sleep(PAUSE)
        super().train_step(batch)


NOTE = "train_step is your own; forward, backward and optimizer are in it, save what super().train_step does."


def test_a_step_of_the_users_own_is_one_part():
    report = profiled(of=model(kind=Own, metrics=()))
    assert NOTE in report.notes
    assert report.share("train_step") > 0.5
    assert not {"forward", "backward", "optimizer"} & set(report.seconds)


def test_what_a_step_leaves_to_the_ordinary_one_is_told_apart():
    report = profiled(of=model(kind=Further))
    slept(report, "train_step")
    assert {"backward", "optimizer", "metrics"} < set(report.seconds)
    assert "forward" not in report.seconds


def test_evaluation_and_prediction(capsys):
    found, profiler = model(), Profiler()
    expected, plain = found.evaluate(batches()), found.predict(batches())
    assert found.evaluate(DataLoader(Images(PAUSE), 8), callbacks=[profiler]).keys() == expected.keys()
    assert "raise num_workers from 0" in profiler.report.advice
    assert found.evaluate(batches(), callbacks=[profiler]) == expected
    assert {"waiting for data", "forward", "metrics", "other"} < set(profiler.report.seconds)
    assert "validation" not in profiler.report.seconds
    assert torch.equal(found.predict(batches(), callbacks=[profiler]), plain)
    assert profiler.report.share("forward") > 0
    assert capsys.readouterr().out.count("Where the time went") == 3


def test_an_evaluation_inside_fit_may_have_it_too():
    class Evaluate(kt.Callback):
        def on_epoch_end(self, epoch, logs):
            self.model.evaluate(batches(3), callbacks=[profiler])
            inner.append(profiler.report)

    profiler, inner, found = Profiler(), [], model()
    found.fit(2, batches(), batches(2), callbacks=[profiler, Evaluate()], verbose=0)
    assert "validation" not in inner[0].seconds
    assert profiler.report.steps == 20
    assert profiler.report.seconds["callback Evaluate"] >= sum(report.total for report in inner)


def test_a_model_can_be_copied_and_pickled_in_the_middle():
    class Keep(kt.Callback):
        def on_train_batch_end(self, batch, logs):
            copies.append(copy.deepcopy(self.model))
            copies.append(pickle.loads(pickle.dumps(self.model)))

    copies = []
    profiled(batches(1), epochs=1, callbacks=[Keep()], of=model())
    for found in copies:
        assert type(found._session.state.metrics.metrics["accuracy"]) is kt.metrics.Accuracy
        assert len(found.fit(1, batches(), verbose=0)) == 1


def test_steps_per_epoch_hide_no_loader():
    profiler = Profiler()
    model().fit(2, DataLoader(Images(PAUSE), 8), callbacks=[profiler], steps_per_epoch=10, verbose=0)
    assert "raise num_workers from 0" in profiler.report.advice


def test_data_in_memory_need_no_workers():
    assert TensorSource((torch.ones(2),), batch_size=1, shuffle=False, name="x").loader is None


@pytest.mark.filterwarnings("ignore:torch computes with")  # fit says so as well
def test_too_many_threads_are_noted(monkeypatch):
    monkeypatch.setattr(module_of_profiler, "usable_cpus", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert profiled().notes == ("torch uses 8 threads on 2 usable CPUs; torch.set_num_threads(2) may be faster.",)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert profiled().notes == ()


class Place:
    """Stands for a run on an accelerator."""

    trains = has_own_step = False
    device = torch.device("cuda")


@pytest.mark.parametrize(("sync", "text"), [(True, "The device was waited for"), (False, "sync=False: a part is")])
def test_on_an_accelerator_it_says_what_was_charged(sync, text):
    assert next(module_of_profiler._notes(Place, sync=sync)).startswith(text)


def test_the_device_is_waited_for_where_it_is_an_accelerator(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    for device in (None, torch.device("cpu"), torch.device("meta"), torch.device("cuda:1")):
        module_of_profiler._wait_for(device)
    assert waited == [torch.device("cuda:1")]


@pytest.mark.parametrize(("sync", "waits"), [(True, True), (False, False)])
def test_the_parts_wait_only_if_asked(monkeypatch, sync, waits):
    waited = []
    monkeypatch.setattr(module_of_profiler, "_accelerator_is_there", lambda: True)
    monkeypatch.setattr(module_of_profiler, "_wait_for", waited.append)
    profiled(batches(1), epochs=1, sync=sync)
    assert (len(waited) >= 12) == waits
    assert bool(waited) == waits


def events(text):
    return {event.get("name", "") for event in json.loads(text)["traceEvents"]}


@pytest.mark.parametrize("name", ["new/trace.json", "trace.json.gz"])
def test_a_trace_can_be_opened(tmp_path, name):
    report = profiled(trace=tmp_path / name)
    path = tmp_path / name
    found = events(gzip.decompress(path.read_bytes()) if name.endswith("gz") else path.read_text())
    assert {"aten::linear", "Optimizer.step#Adam.step", *(f"ProfilerStep#{step}" for step in range(3, 8))} <= found
    assert not {"ProfilerStep#2", "ProfilerStep#8"} & found
    assert report.notes == (f"Trace: {path}, for https://ui.perfetto.dev",)
    assert report.seconds["trace"] > 0


def test_a_trace_for_tensorboard(tmp_path):
    report = profiled(trace=tmp_path / "logs")
    (path,) = (tmp_path / "logs").iterdir()
    assert path.name.endswith(".pt.trace.json")
    assert "aten::linear" in events(path.read_text())
    assert report.notes == (f"Trace: tensorboard --logdir {tmp_path / 'logs'}, with torch-tb-profiler",)


@pytest.mark.parametrize(("steps", "traced"), [(2, ()), (3, ()), (5, (3, 4))])
def test_a_run_may_be_too_short_for_a_whole_trace(tmp_path, steps, traced):
    path = tmp_path / "trace.json"
    report = profiled(batches(steps), epochs=1, trace=path)
    if traced:
        found = events(path.read_text())
        assert {step for step in range(10) if f"ProfilerStep#{step}" in found} >= set(traced)
    else:
        assert not path.exists()
        assert report.notes == ("No trace: it begins after 3 steps, and there were no more.",)


def test_a_trace_of_a_prediction(tmp_path):
    found = model()
    found.predict(batches(), callbacks=[Profiler(tmp_path / "predict.json")])
    found.evaluate(batches(), callbacks=[Profiler(tmp_path / "evaluate.json")])
    for name in ("predict.json", "evaluate.json"):
        assert "aten::linear" in events((tmp_path / name).read_text())


def test_an_error_closes_the_trace(tmp_path):
    path = tmp_path / "trace.json"
    fail_late = LambdaCallback(on_train_batch_end=lambda batch, logs: 1 // (5 - batch))
    with pytest.raises(ZeroDivisionError):
        profiled(callbacks=[fail_late], trace=path)
    assert "aten::linear" in events(path.read_text())
    profiled(trace=path)


def test_a_trace_that_cannot_be_written_is_told_of_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    seen = []
    watch = LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))
    with pytest.raises(OSError, match="file"):
        profiled(trace=tmp_path / "file" / "trace.json", callbacks=[watch])
    assert seen == []
    profiled(trace=tmp_path / "trace.json")


def test_two_traces_of_one_training_are_refused_before_it(tmp_path):
    seen = []
    watch = LambdaCallback(on_train_begin=seen.append)
    first, path = Profiler(tmp_path / "first.json"), tmp_path / "second.json"
    with pytest.raises(
        RuntimeError, match=r"that of another Profiler is being made, .*first\.json, and torch makes one"
    ):
        model().fit(1, batches(), callbacks=[first, Profiler(path), watch], verbose=0)
    assert seen == []
    assert not path.exists()
    assert "aten::linear" in events(traced(path))


def traced(path):
    profiled(trace=path)
    return path.read_text()


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 9])
@pytest.mark.parametrize("same", [True, False])
def test_an_evaluation_inside_a_training_with_a_trace_goes_without(tmp_path, steps, same):
    class Evaluate(kt.Callback):
        def on_train_batch_end(self, batch, logs):
            if batch == steps:
                self.model.evaluate(batches(), callbacks=[inner])
                reports.append(inner.report)

    reports, outer = [], Profiler(tmp_path / "outer.json")
    inner = outer if same else Profiler(tmp_path / "new" / "inner.json")
    model().fit(1, batches(12), callbacks=[outer, Evaluate()], verbose=0)
    assert "ProfilerStep#7" in events((tmp_path / "outer.json").read_text())
    assert outer.report.notes[-1].startswith("Trace: ")
    note = f"No trace: that of another Profiler is being made, {tmp_path / 'outer.json'}."
    assert (reports[0].notes[-1] == note) == (steps < 7)  # the eighth step has closed it
    assert (tmp_path / "new").exists() == (steps >= 7 and not same)


def test_inside_a_profiler_of_torch_training_is_refused_and_an_evaluation_goes_without(tmp_path):
    profiler, found, seen = Profiler(tmp_path / "trace.json"), model(), []
    watch = LambdaCallback(on_train_begin=seen.append)
    with torch.profiler.profile(activities=CPU) as own:
        with pytest.raises(RuntimeError, match=r"a torch\.profiler is at work already, .*for the table alone"):
            found.fit(1, batches(), callbacks=[profiler, watch], verbose=0)
        found.evaluate(batches(), callbacks=[profiler])
    assert seen == []
    assert profiler.report.notes == ("No trace: a torch.profiler is at work already.",)
    assert any(event.name == "aten::linear" for event in own.events())
    found.fit(1, batches(), callbacks=[profiler], verbose=0)
    assert "aten::linear" in events((tmp_path / "trace.json").read_text())


CPU = [torch.profiler.ProfilerActivity.CPU]
oldest = pytest.mark.skipif(
    torch.__version__.startswith("2.6."), reason="torch 2.6 refuses to begin a profiler while another is prepared"
)


@pytest.mark.parametrize("length", [2, 10])
@pytest.mark.parametrize("begin", [0, pytest.param(1, marks=oldest)])
def test_a_profiler_of_torch_that_begins_first_is_given_way_to(tmp_path, begin, length):
    class Own(kt.Callback):
        def on_train_batch_begin(self, batch, logs):
            if batch == begin:
                own.start()

    own, path = torch.profiler.profile(activities=CPU), tmp_path / "trace.json"
    profiler = Profiler(path)
    model().fit(1, batches(length), callbacks=[profiler, Own()], verbose=0)
    own.stop()
    assert profiler.report.notes == ("No trace: a torch.profiler is at work already.",)
    assert not path.exists()
    assert any(event.name == "aten::linear" for event in own.events())
    assert "aten::linear" in events(traced(path))


def test_repr_is_the_call(tmp_path):
    assert repr(Profiler()) == "Profiler(None, sync=True)"
    assert repr(Profiler("trace.json", sync=False)) == "Profiler('trace.json', sync=False)"


def test_fit_takes_it_as_an_option(capsys):
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "sgd")
    model.fit(1, (torch.randn(8, 2), torch.randn(8, 1)), profile=True, verbose=0)
    out = capsys.readouterr().out
    assert "forward" in out
    assert "optimizer" in out
    model.fit(1, (torch.randn(8, 2), torch.randn(8, 1)), verbose=0)
    assert capsys.readouterr().out == ""
