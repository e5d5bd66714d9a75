import re

import pytest

from kerastorch.metrics import (
    AUROC,
    F1,
    R2,
    Accuracy,
    AveragePrecision,
    ConfusionMatrix,
    Dice,
    IoU,
    MeanAbsoluteError,
    MeanSquaredError,
    Perplexity,
    Precision,
    Recall,
    RootMeanSquaredError,
    named,
)

KNOWN = (
    "accuracy, top5, precision, recall, f1, iou, dice, confusion_matrix, auroc, average_precision, mae, mse, rmse, "
    "r2, perplexity"
)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        ("accuracy acc Accuracy ACC binary_accuracy SparseCategoricalAccuracy", Accuracy),
        ("precision Precision", Precision),
        ("recall", Recall),
        ("f1 F1 f1_score F1Score", F1),
        ("iou IoU mean_iou MeanIoU jaccard", IoU),
        ("dice Dice", Dice),
        ("confusion_matrix ConfusionMatrix", ConfusionMatrix),
        ("auroc AUROC auc AUC roc_auc", AUROC),
        ("average_precision AveragePrecision ap AP", AveragePrecision),
        ("mae MAE mean_absolute_error MeanAbsoluteError", MeanAbsoluteError),
        ("mse mean_squared_error MeanSquaredError", MeanSquaredError),
        ("rmse root_mean_squared_error RootMeanSquaredError", RootMeanSquaredError),
        ("r2 R2 r2_score R2Score", R2),
        ("perplexity Perplexity", Perplexity),
    ],
)
def test_a_metric_has_a_name_in_any_spelling(names, kind):
    for name in names.split():
        assert type(named(name)) is kind
        assert named(name).on == "both"


@pytest.mark.parametrize(
    ("name", "guesses"),
    [
        ("top5", 5),
        ("top_5_accuracy", 5),
        ("top1_acc", 1),
        ("Top10Accuracy", 10),
        ("top_k_categorical_accuracy", 5),
        ("SparseTopKCategoricalAccuracy", 5),
    ],
)
def test_any_number_of_guesses_has_a_name(name, guesses):
    assert repr(named(name)) == repr(Accuracy(top_k=guesses))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("accurcy", " Did you mean 'accuracy'?"),
        ("recal", " Did you mean 'recall'?"),
        ("mean_square_error", " Did you mean 'mean_squared_error'?"),
        ("top0", " Did you mean 'top5'?"),
        ("unheard-of", ""),
        ("", ""),
    ],
)
def test_an_unknown_name_is_named_with_what_is_known(name, hint):
    with pytest.raises(ValueError, match=re.escape("Unknown metric")) as error:
        named(name)
    assert str(error.value) == f"Unknown metric {name!r}.{hint} There are {KNOWN}."
