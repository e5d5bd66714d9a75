import math

import pytest

from kerastorch.metrics import Task


@pytest.mark.parametrize(
    ("task", "threshold"),
    [
        (Task(), 0.5),
        (Task("probabilities"), 0.5),
        (Task("logits"), 0.0),
        (Task("logits", False, 3), 0.0),
        (Task("log_probabilities", False), math.log(0.5)),
        (Task("logits", True), 0.5),  # classes are not separated by a threshold
    ],
)
def test_the_threshold_is_the_probability_one_half(task, threshold):
    assert task.threshold == threshold
