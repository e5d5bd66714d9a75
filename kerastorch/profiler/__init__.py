"""Where the time went: a clock, what it found, and what to do about it."""

from kerastorch.cpus import usable_cpus
from kerastorch.profiler.advice import Circumstances, advise
from kerastorch.profiler.clock import Clock, Part, stand_in
from kerastorch.profiler.report import Report, by_name
from kerastorch.profiler.trace import Trace

__all__ = ["Circumstances", "Clock", "Part", "Report", "Trace", "advise", "by_name", "stand_in", "usable_cpus"]
