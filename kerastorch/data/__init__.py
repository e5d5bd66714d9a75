"""From whatever the user has to batches."""

from kerastorch.data.adapt import adapt, makes_own_batches
from kerastorch.data.batch import Batch
from kerastorch.data.source import DataSource, NoData

__all__ = ["Batch", "DataSource", "NoData", "adapt", "makes_own_batches"]
