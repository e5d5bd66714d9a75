import warnings

import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch.checks import threads


@pytest.fixture(autouse=True)
def untold(monkeypatch):
    monkeypatch.setattr(threads, "_told", set())


def set_up(monkeypatch, there, cpus):
    monkeypatch.setattr(torch, "get_num_threads", lambda: there)
    monkeypatch.setattr(threads, "usable_cpus", lambda: cpus)


def fit():
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "sgd", device="cpu")
    model.fit(1, (torch.zeros(4, 2), torch.zeros(4, 1)), verbose=0)


@pytest.mark.parametrize(("there", "cpus", "named"), [(2, 1, "1 CPU"), (64, 8, "8 CPUs")])
def test_more_threads_than_cpus_are_told_of_once(monkeypatch, there, cpus, named):
    set_up(monkeypatch, there, cpus)
    with pytest.warns(UserWarning) as caught:
        fit()
    assert [str(warning.message) for warning in caught] == [
        f"torch computes with {there} threads, but this process may use {named}: the threads wait for one another, and "
        f"steps may take several times as long. Type torch.set_num_threads({cpus}), or set OMP_NUM_THREADS={cpus} "
        "before Python starts."
    ]
    fit()  # a warning would be an error


def test_another_number_is_told_of_again(monkeypatch):
    set_up(monkeypatch, 4, 2)
    with pytest.warns(UserWarning, match="4 threads"):
        threads.threads_fit()
    set_up(monkeypatch, 8, 2)
    with pytest.warns(UserWarning, match="8 threads"):
        threads.threads_fit()


@pytest.mark.parametrize(("there", "cpus"), [(1, 1), (2, 2), (1, 16)])
def test_as_many_threads_as_cpus_are_right(monkeypatch, there, cpus):
    set_up(monkeypatch, there, cpus)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        threads.threads_fit()
