"""How long a step takes on N devices: a model of its parts, and how near it comes to what can be measured here.

    python -m benchmarks.scale --parameters 1e9 --step-seconds 0.5 --link-gbit 400
    python -m benchmarks.scale --measure --picture docs/images/scale.svg

Every device has a batch of its own, of the same size for any number of devices (weak scaling), so a step would take
as long as on one device if nothing had to be sent. What is sent:

- All-gather and reduce-scatter of S bytes in a ring: (N-1)/N S / bandwidth, and N-1 times the latency. An all-reduce is
  both, which is the least that any way can send: Patarasuk & Yuan, Bandwidth optimal all-reduce algorithms for clusters
  of workstations, JPDC 2009. Time is latency and bytes over bandwidth as in Thakur, Rabenseifner & Gropp, Optimization
  of collective communication operations in MPICH, IJHPCA 2005. By halving and doubling, which is theirs, the latency
  counts log2 N times in place of N-1; so it does in the model of large clusters. gloo goes in a ring, and so does
  what is compared with it.
- Within a node and between nodes: reduce-scatter within, all-reduce of each part between, all-gather within (Cho et
  al., BlueConnect, MLSys 2019). All devices of a node share its way to the network.
- DDP sends gradients in buckets of 25 MiB while backward goes on: Li et al., PyTorch Distributed, VLDB 2020.
- FSDP gathers each block for forward, again for backward, and reduce-scatters its gradients, half as much again as DDP:
  Rajbhandari et al., ZeRO, SC 2020. The next block is gathered while one is computed.
- Backward takes twice as long as forward.

It leaves out what cannot be known beforehand: devices that wait for the slowest one, other jobs on the network, data
that come too late, kernels that are slower while something is sent. So it says what is possible at best.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.chart import OTHERS, OURS, TEXT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AMBER = "#c9862b"  # readable on white and on black, as the others
BUCKET = 25 * 2**20  # bytes, DDP's default
FORWARD = 1 / 3  # of the time to compute


@dataclass(frozen=True)
class Link:
    """A way between devices.

    Attributes:
        latency: Seconds until the first byte arrives.
        bandwidth: Bytes per second in each direction.
        halving: Whether collectives go by halving and doubling; else in a ring.
    """

    latency: float
    bandwidth: float
    halving: bool = False

    def shared(self, by: int) -> Link:
        """Return the link as each of several sees it that use it at once."""
        return Link(self.latency, self.bandwidth / by, self.halving)

    def all_gather(self, size: float, devices: int) -> float:
        """Return the seconds until every device has all `size` bytes, of which each had its part."""
        steps = math.ceil(math.log2(devices)) if self.halving else devices - 1
        return steps * self.latency + (devices - 1) / devices * size / self.bandwidth

    def reduce_scatter(self, size: float, devices: int) -> float:
        """Return the seconds until each device has its part of the sum of `size` bytes; an all-gather backwards."""
        return self.all_gather(size, devices)

    def all_reduce(self, size: float, devices: int) -> float:
        """Return the seconds until every device has the sum of `size` bytes."""
        return self.reduce_scatter(size, devices) + self.all_gather(size, devices)


@dataclass(frozen=True)
class Cluster:
    """Nodes of several devices each.

    Attributes:
        per_node: Devices in a node.
        inside: The way between devices of a node.
        network: The way between nodes, which the devices of a node share.
    """

    per_node: int
    inside: Link
    network: Link

    def _parts(self, devices: int) -> tuple[int, int, Link]:
        local = min(devices, self.per_node)
        return local, math.ceil(devices / local), self.network.shared(local)

    def all_gather(self, size: float, devices: int) -> float:
        """Return the seconds: each part between nodes, then all parts within them."""
        local, nodes, network = self._parts(devices)
        return network.all_gather(size / local, nodes) + self.inside.all_gather(size, local)

    def reduce_scatter(self, size: float, devices: int) -> float:
        """Return the seconds of an all-gather backwards."""
        return self.all_gather(size, devices)

    def all_reduce(self, size: float, devices: int) -> float:
        """Return the seconds until every device has the sum."""
        return self.reduce_scatter(size, devices) + self.all_gather(size, devices)


@dataclass(frozen=True)
class Work:
    """A step of one device.

    Attributes:
        parameters: How many.
        seconds: What forward, backward and update take where nothing is sent.
        bytes_each: Of a parameter and of its gradient on their way: 4 for float32, 2 for bfloat16.
        blocks: Parts of equal size that FSDP wraps.
    """

    parameters: float
    seconds: float
    bytes_each: int = 4
    blocks: int = 32

    @property
    def size(self) -> float:
        """Return the bytes of all gradients."""
        return self.parameters * self.bytes_each


def ddp(work: Work, cluster: Cluster, devices: int) -> float:
    """Return the seconds of a step with DDP: a bucket leaves as soon as it is full and the one before has arrived."""
    buckets = math.ceil(work.size / BUCKET)
    backward = work.seconds * (1 - FORWARD)
    sent = 0.0
    for number in range(1, buckets + 1):
        full = work.seconds * FORWARD + backward * number / buckets
        sent = max(sent, full) + cluster.all_reduce(work.size / buckets, devices)
    return max(work.seconds, sent)


def fsdp(work: Work, cluster: Cluster, devices: int) -> float:
    """Return the seconds of a step with FSDP2, one block gathered ahead; what is sent is sent one after the other."""
    gather = cluster.all_gather(work.size / work.blocks, devices)
    scatter = cluster.reduce_scatter(work.size / work.blocks, devices)
    forward, backward = work.seconds * FORWARD / work.blocks, work.seconds * (1 - FORWARD) / work.blocks
    sent = begun = computed = 0.0
    for number in range(2 * work.blocks):
        sent = max(sent, begun) + gather  # while the block before is computed
        begun = max(computed, sent)
        if number > work.blocks:  # the gradients of the block before
            sent = max(sent, computed) + scatter
        computed = begun + (forward if number < work.blocks else backward)
    return max(sent, computed) + scatter


def predicted(work: Work, cluster: Cluster, most: int) -> list[tuple[int, float, float]]:
    """Return number of devices, seconds of a step with DDP and with FSDP, for powers of two."""
    counts = [2**power for power in range(int(math.log2(most)) + 1)]
    return [(devices, ddp(work, cluster, devices), fsdp(work, cluster, devices)) for devices in counts]


def draw(work: Work, clusters: dict[str, Cluster], most: int, found: dict[str, Any] | None) -> Figure:
    """Return a figure: what part of the time is computed, by devices; and what was measured beside the model."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.family": "sans-serif", "font.size": 10}):
        figure = Figure(figsize=(5.6 * (1 + bool(found)), 3.8), layout="constrained")
        axes = figure.subplots(1, 1 + bool(found), squeeze=False)[0]
        _efficiency(axes[0], work, clusters, most)
        if found:
            _comparison(axes[1], found["rows"])
    return figure


def _efficiency(axes: Axes, work: Work, clusters: dict[str, Cluster], most: int) -> None:
    for (name, cluster), style in zip(clusters.items(), ("-", "--", ":", "-.") * len(clusters), strict=False):
        rows = predicted(work, cluster, most)
        for title, colour, column in (("DDP", OURS, 1), ("FSDP", AMBER, 2)):
            parts = [work.seconds / row[column] for row in rows]
            axes.plot([row[0] for row in rows], parts, style, color=colour, linewidth=2, label=f"{title}, {name}")
    axes.set_xscale("log", base=2)
    axes.set_xticks([2**power for power in range(0, int(math.log2(most)) + 1, 2)])
    axes.xaxis.set_major_formatter(lambda value, place: f"{value:.0f}")
    axes.set_ylim(0, 1.05)
    _plain(axes, "Model: part of a step that is computed", "devices")


def _comparison(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    for parameters, colour in zip(sorted({row["parameters"] for row in rows}), (OTHERS, AMBER, OURS), strict=True):
        own = [row for row in rows if row["parameters"] == parameters]
        counts = [row["processes"] for row in own]
        label = f"{parameters / 1e6:.1f} million parameters"
        axes.plot(counts, [row["model"] * 1e3 for row in own], "-", color=colour, linewidth=2, label=label)
        axes.plot(counts, [row["measured"] * 1e3 for row in own], "o", color=colour, markersize=7)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.yaxis.set_major_formatter(lambda value, place: f"{value:g}")
    _plain(axes, "ms a step on two cores: model, and measured (dots)", "processes")


def _plain(axes: Axes, title: str, below: str) -> None:
    axes.set_title(title, color=TEXT, fontsize=11, fontweight="bold", loc="left")
    axes.set_xlabel(below, color=TEXT)
    axes.tick_params(which="both", length=0, labelcolor=TEXT)
    axes.grid(color=TEXT, alpha=0.25, linewidth=0.8)
    axes.legend(frameon=False, labelcolor=TEXT, fontsize=9)
    axes.patch.set_alpha(0)
    axes.spines[:].set_visible(False)


def save(figure: Figure, path: Path) -> None:
    """Write SVG, PNG or what the name ends on."""
    import matplotlib as mpl

    metadata = {"Date": None} if path.suffix == ".svg" else None
    with mpl.rc_context({"svg.hashsalt": "kerastorch"}):  # the same figures make the same file
        figure.savefig(path, transparent=True, dpi=160, metadata=metadata)


def text(work: Work, clusters: dict[str, Cluster], most: int) -> str:
    lines = [f"{work.parameters:.3g} parameters, {work.bytes_each} bytes each, {work.seconds:g} s a step on one device"]
    for name, cluster in clusters.items():
        lines += ["", f"{name:>16} {'DDP, s':>9} computed {'FSDP, s':>9} computed"]
        for devices, *both in predicted(work, cluster, most):
            lines.append(f"{devices:16}" + "".join(f" {took:9.4f} {work.seconds / took:8.0%}" for took in both))
    return "\n".join(lines)


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, default=1e9)
    parser.add_argument("--step-seconds", type=float, default=0.5, help="of a step on one device")
    parser.add_argument("--bytes", type=int, default=4, help="of a parameter and a gradient on their way")
    parser.add_argument("--blocks", type=int, default=32, help="that FSDP wraps")
    parser.add_argument("--per-node", type=int, default=8, help="devices in a node")
    parser.add_argument("--node-gbyte", type=float, default=300, help="GB/s of each device within a node")
    parser.add_argument("--link-gbit", type=float, nargs="+", default=[100, 400], help="Gbit/s of a node's network")
    parser.add_argument("--latency-us", type=float, default=10)
    parser.add_argument("--ring", action="store_true", help="latency counts N-1 times, not log2 N times")
    parser.add_argument("--devices", type=int, default=1024, help="the largest number")
    parser.add_argument("--measure", action="store_true", help="compare the model with 1, 2 and 4 processes here")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20, help="in a round")
    parser.add_argument("--picture", type=Path, help="draw it: SVG, PNG or what the name ends on")
    return parser.parse_args(given)


def main() -> None:
    arguments = parse_arguments()
    work = Work(arguments.parameters, arguments.step_seconds, arguments.bytes, arguments.blocks)
    latency = arguments.latency_us * 1e-6
    inside = Link(latency, arguments.node_gbyte * 1e9, halving=not arguments.ring)
    clusters = {
        f"{gbit:g} Gbit/s": Cluster(arguments.per_node, inside, Link(latency, gbit * 1e9 / 8, not arguments.ring))
        for gbit in arguments.link_gbit
    }
    print(text(work, clusters, arguments.devices))
    found = None
    if arguments.measure:
        from benchmarks.scale_here import comparison, measured  # these two need torch

        found = measured(arguments.steps, arguments.rounds)
        print("", comparison(found), sep="\n")
    if arguments.picture:
        save(draw(work, clusters, arguments.devices, found), arguments.picture)


if __name__ == "__main__":
    main()
