"""From whatever the user has to batches."""

from kerastorch.data.adapt import adapt
from kerastorch.data.batch import Batch
from kerastorch.data.class_names import class_names
from kerastorch.data.class_weight import class_weights
from kerastorch.data.kinds import makes_own_batches, named_sets
from kerastorch.data.labels import labels_of
from kerastorch.data.sharded import Sharded
from kerastorch.data.share import Share
from kerastorch.data.source import DataSource, NoData
from kerastorch.data.split import split

__all__ = [
    "Batch",
    "DataSource",
    "NoData",
    "Sharded",
    "Share",
    "adapt",
    "class_names",
    "class_weights",
    "labels_of",
    "makes_own_batches",
    "named_sets",
    "split",
]
