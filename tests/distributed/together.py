"""Several real processes with gloo, started in a moment: they are forks of a server that has imported torch."""

import contextlib
import io
import multiprocessing
import os
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

needs_fsdp = pytest.mark.skipif(torch.__version__.startswith("2.6."), reason="FSDP of torch 2.6 needs an accelerator")
ROOT = Path(__file__).parents[2]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "kerastorch.model",
        "kerastorch.strategy.ddp",
        "torch._inductor.standalone_compile",  # which DDP imports when it is built, in seconds
        "torch._inductor.utils",
    ]
)


class Failed(AssertionError):
    """A process raised an exception.

    Attributes:
        errors: What each process printed of its exception, by rank.
        outputs: What each process printed, by rank.
    """

    def __init__(self, errors, outputs):
        super().__init__("\n".join(f"--- process {rank}\n{text}" for rank, text in errors.items()))
        self.errors, self.outputs = errors, outputs


def together(size, work, *args, timeout=120, env=None):
    """Call `work(*args)` in so many processes, as torchrun would start them; return what each returned, by rank.

    Raises:
        Failed: One of them raised, or did not come to an end in time.
    """
    return [result for result, _ in with_output(size, work, *args, timeout=timeout, env=env)]


def with_output(size, work, *args, timeout=120, env=None):
    """Do what `together` does; return results and what was printed, by rank."""
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=timeout))
    environment = {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "OMP_NUM_THREADS": "1",
        **(env or {}),
    }
    queue = _CONTEXT.Queue()
    measured = _measured()
    processes = [
        _CONTEXT.Process(target=_run, args=(rank, environment, measured, work, args, queue)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    found = {}
    try:
        for _ in processes:
            with contextlib.suppress(Exception):
                rank, result, error, output = queue.get(timeout=timeout if not found else max(20, timeout / 4))
                found[rank] = torch.load(io.BytesIO(result), weights_only=False), error, output
    finally:
        for process in processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
    errors = {rank: error for rank, (_, error, _) in sorted(found.items()) if error}
    errors |= {rank: "no answer" for rank in range(size) if rank not in found}
    if errors:
        raise Failed(errors, {rank: output for rank, (_, _, output) in sorted(found.items())})
    return [(found[rank][0], found[rank][2]) for rank in range(size)]


def _measured():
    """The configuration by which coverage is measured, if it is."""
    coverage = sys.modules.get("coverage")
    measuring = None if coverage is None else coverage.Coverage.current()
    return None if measuring is None else (measuring.get_option("run:data_file"), str(ROOT / "pyproject.toml"))


@contextlib.contextmanager
def _coverage(measured):
    if measured is None:
        yield
        return
    import coverage

    data, configuration = measured
    measuring = coverage.Coverage(data_file=str(ROOT / data), data_suffix=True, config_file=configuration)
    measuring.start()
    try:
        yield
    finally:
        measuring.stop()
        measuring.save()


def _run(rank, environment, measured, work, args, queue):
    with _coverage(measured):
        _work(rank, environment, work, args, queue)


def _work(rank, environment, work, args, queue):
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    result = error = None
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            result = work(*args)
        except BaseException:
            error = traceback.format_exc()
    group = dist.group.WORLD  # held to the end, or torch 2.6 may wait for ever, see processes.leave
    if dist.is_initialized():
        dist.destroy_process_group()
    packed = io.BytesIO()
    torch.save(result, packed)  # a queue would share the memory of tensors, which ends with this process
    queue.put((rank, packed.getvalue(), error, output.getvalue()))
    queue.close()
    queue.join_thread()
    del group
