"""Runs for MLflow."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

from kerastorch.callbacks.logger import Logger, UpdateFreq, check_update_freq, configuration
from kerastorch.callbacks.values import grid, kind, number
from kerastorch.errors import needs

_MOST_METRICS, _MOST_PARAMS = 1000, 100  # MLflow takes no more at once
_LONGEST = 250  # characters in a name


class MLflow(Logger):
    """Writes each `fit` as a run of MLflow; `mlflow ui` shows them.

    Metrics are numbers, over the steps of the optimizer; `epoch` is one of them. Parameters are what is known of the
    run: optimizer, learning rate, loss, epochs, batch size, the size of the net. Text, figures and images that others
    hand to `run.log` become artifacts, several images one; other arrays are left out with a warning. The run ends as
    `FINISHED`; as `FAILED` after an error, as `KILLED` where it ended inside an epoch, as after Ctrl-C. Why it ended
    early is its tag `stop_reason`.

    A run that was killed goes on as the same run of MLflow. What the killed process has written after the checkpoint is
    not written again: MLflow takes no metric out.

    A run that you have started yourself is written to, and is not ended. `evaluate(callbacks=[...])` with the same
    object adds its result to the run of the last `fit`.

    Example:
        >>> kt.callbacks.MLflow("cifar10", tracking_uri="sqlite:///mlflow.db", params={"augmented": True})

    Args:
        experiment: Its name; made if there is none.
        run_name: Of the run; MLflow thinks of one by default.
        tracking_uri: Where to: `"sqlite:///mlflow.db"`, or a server. By default as MLflow is set up.
        tags: Of the run.
        params: Parameters of your own; they come first where they have the name of one that is known.
        update_freq: Steps between two points of the running means `batch_loss`, ...; 0 or `"epoch"` for none. By
            default what `fit` was told as `log_step_freq`.

    Attributes:
        run_id: Of the last run; None before.

    Raises:
        MissingPackageError: No package mlflow is installed.
        ValueError: `update_freq` is something else.
    """

    def __init__(
        self,
        experiment: str = "kerastorch",
        run_name: str | None = None,
        tracking_uri: str | None = None,
        tags: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        *,
        update_freq: UpdateFreq = None,
    ) -> None:
        needs("mlflow", purpose="The MLflow callback")
        check_update_freq(update_freq)
        self.experiment = experiment
        self.run_name = run_name
        self.tracking_uri = tracking_uri
        self.tags = dict(tags or {})
        self.params = dict(params or {})
        self.update_freq = update_freq
        self.run_id: str | None = None
        self._client: Any = None
        self._there: dict[str, set[int]] | None = None  # steps of each metric that a killed process has written
        self._ends = False  # whether the run is ours to end

    def __repr__(self) -> str:
        return (
            f"MLflow({self.experiment!r}, {self.run_name!r}, tracking_uri={self.tracking_uri!r}, "
            f"tags={self.tags or None}, params={self.params or None}, update_freq={self.update_freq!r})"
        )

    def open(self) -> None:
        """Begin a run, or find the one that is there."""
        mlflow = needs("mlflow", purpose="The MLflow callback")
        active, self._ends, self._there = mlflow.active_run(), False, None
        self._client = mlflow.MlflowClient(self.tracking_uri if active is None else None)
        if active is not None:
            self.run_id = active.info.run_id
        elif (self.run.trains or self.run_id is None) and not self._goes_on():
            self._begin()
        self._describe()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Write numbers as metrics, other values as artifacts."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics, others = [], []
        for name, value in values.items():
            with self.leaving_out(name):
                if kind(value) == "number":
                    if not self._is_there(_name(name), step):
                        metrics.append(Metric(_name(name), number(value), now, step))
                else:
                    others.append(name)
        for start in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + _MOST_METRICS])
        for name in others:
            with self.leaving_out(name):
                self._write_artifact(_name(name), values[name], step)

    def close(self, error: BaseException | None) -> None:
        """End the run, if it was begun here."""
        client, self._client = self._client, None
        reason = self.run.stop_reason
        if reason is not None:
            client.set_tag(self.run_id, "stop_reason", reason)
        if self._ends:
            killed = isinstance(error, (KeyboardInterrupt, SystemExit)) or self.run.interrupted
            client.set_terminated(self.run_id, "KILLED" if killed else "FINISHED" if error is None else "FAILED")

    def state_dict(self) -> dict[str, Any]:
        """Return which run it is."""
        return {"experiment": self.experiment, "run_name": self.run_name, "run_id": self.run_id}

    def _goes_on(self) -> bool:
        """Find the run that was killed; return whether it is there."""
        kept, client = self.kept(), self._client
        if not kept or (kept["experiment"], kept["run_name"]) != (self.experiment, self.run_name):
            return False
        try:
            found = client.get_run(kept["run_id"])
        except Exception as error:  # another store, or one that was emptied
            self.warn_once("gone", f"{self!r} begins a new run: {kept['run_id']} is not there ({error!r}).")
            return False
        if found.info.lifecycle_stage == "deleted":
            return False
        self.run_id, self._ends, self._there = kept["run_id"], True, {}
        client.update_run(self.run_id, status="RUNNING")
        if "stop_reason" in found.data.tags:
            client.delete_tag(self.run_id, "stop_reason")
        return True

    def _is_there(self, name: str, step: int) -> bool:
        if self._there is None:
            return False
        if name not in self._there:
            self._there[name] = {point.step for point in self._client.get_metric_history(self.run_id, name)}
        return step in self._there[name]

    def _begin(self) -> None:
        client = self._client
        experiment = client.get_experiment_by_name(self.experiment)
        number_of_it = client.create_experiment(self.experiment) if experiment is None else experiment.experiment_id
        tags = {name: str(value) for name, value in self.tags.items()}
        self.run_id = client.create_run(number_of_it, run_name=self.run_name, tags=tags).info.run_id
        self._ends = True

    def _describe(self) -> None:
        """Write the parameters that the run does not have yet: they can be written once."""
        from mlflow.entities import Param

        known = self._client.get_run(self.run_id).data.params
        facts = {_name(name): str(value) for name, value in {**configuration(self.run), **self.params}.items()}
        new = [Param(name, value) for name, value in facts.items() if name not in known]
        for start in range(0, len(new), _MOST_PARAMS):
            self._client.log_batch(self.run_id, params=new[start : start + _MOST_PARAMS])

    def _write_artifact(self, name: str, value: Any, step: int) -> None:
        match kind(value):
            case "text":
                self._client.log_text(self.run_id, value, f"{name}/{step}.txt")
            case "figure":
                self._client.log_figure(self.run_id, value, f"{name}/{step}.png")
            case "images":
                self._client.log_image(self.run_id, grid(value), key=name, step=step)
            case _:
                text = f"{self!r} leaves out {name!r}: MLflow has no place for {type(value).__name__}."
                self.warn_once(f"{name} {type(value)}", text)


def _name(name: str) -> str:
    """Return a name that MLflow takes: its characters, and a path that goes downwards."""
    clean = re.sub(r"[^\w\-. /]", "_", name, flags=re.ASCII)[:_LONGEST]
    return "/".join(part for part in clean.split("/") if part not in ("", ".", "..")) or "_"
