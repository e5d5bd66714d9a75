"""Steps that call the net compiled, where that is faster."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from torch._dynamo.exc import TorchDynamoException

from kerastorch.data import Batch
from kerastorch.jit.contest import Contest
from kerastorch.jit.forms import Form, form
from kerastorch.run import Run

OFTEN = 32  # what comes less often, such as the last batch of an epoch, is not worth its compilation

Step = Callable[[Batch], Any]


class NetStep:
    """Does the ordinary step, and calls the net compiled where that is faster.

    Args:
        run: What it works with.
        ordinary: The step.
        net: The net compiled, by `torch.compile`.
        contests: By form of batch, whether it is faster; kept from one call to the next.
    """

    def __init__(self, run: Run, ordinary: Step, net: Any, contests: Contests) -> None:
        self._run, self._ordinary, self._net, self._contests = run, ordinary, net, contests

    def __call__(self, batch: Batch) -> Any:
        """Do a step."""
        contest = None if self._contests.failed else self._contests.of(form(batch), self._run)
        if contest is None or contest.winner == 0:
            return self._plain(batch)
        try:
            return self._compiled(batch) if contest.winner else contest.run((self._plain, self._compiled), batch)
        except TorchDynamoException:  # before the net was called: there is no compiler for C++, for one
            self._contests.failed = True
            return self._plain(batch)

    def _plain(self, batch: Batch) -> Any:
        self._call(None)
        return self._ordinary(batch)

    def _compiled(self, batch: Batch) -> Any:
        self._call(self._net)
        return self._ordinary(batch)

    def _call(self, net: Any) -> None:
        if self._run.net is not net:
            self._run.net, self._run.call = net, None


class Contests:
    """Which forms of batches come often, and what is faster for them.

    Args:
        first: How often the first form must have come.

    Attributes:
        held: By form.
        failed: Nothing can be compiled here.
    """

    most = 8  # forms that anything is compiled for

    def __init__(self, first: int = OFTEN) -> None:
        self.held: dict[Form, Contest] = {}
        self.failed = False
        self._first = first
        self._seen: defaultdict[Form, int] = defaultdict(int)

    def of(self, key: Form | None, run: Run) -> Contest | None:
        """Return the contest of a form, which begins when it comes often; None for others."""
        if key is None:
            return None
        contest = self.held.get(key)
        if contest is None:
            self._seen[key] += 1
            wanted = OFTEN if self.held else self._first
            if self._seen[key] >= wanted and len(self.held) < self.most:
                contest = self.held[key] = Contest(run.device)
        return contest
