import math
import random
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import kerastorch as kt
from kerastorch.errors import DataError, MismatchError, MissingPackageError
from kerastorch.plot.images import RIGHT, WRONG, visible
from kerastorch.plot.outcome import answers
from kerastorch.plot.reading import called


def a_history(*rows):
    history = kt.History()
    for epoch, row in enumerate(rows):
        history.append(epoch, row)
    return history


def images_of(figure):
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes]


def titles_of(figure):
    return [axes.get_title() for axes in figure.axes]


X = torch.arange(24.0).reshape(24, 1, 1, 1).expand(24, 1, 4, 4) / 24  # the shade is the number of the sample
Y = torch.arange(24) % 3


class Pictures(Dataset):
    """PIL images, which no DataLoader can put together."""

    classes = ("ant", "bee", "cat")

    def __init__(self):
        self.asked = []

    def __len__(self):
        return 24

    def __getitem__(self, index):
        self.asked.append(index)
        torch.rand(1)
        random.random()
        return Image.fromarray(np.full((4, 4, 3), index, np.uint8)), index % 3


# ---------------------------------------------------------------- compare


def test_histories_are_compared_by_colour():
    first = a_history({"loss": 2.0, "val_loss": 3.0}, {"loss": 1.0, "val_loss": 2.0})
    second = a_history({"loss": 1.5, "val_loss": 2.5, "f1": 0.5})
    figure = kt.plot.compare({"adam": first, "sgd": second})
    assert titles_of(figure) == ["loss", "f1"]
    curves = [line for line in figure.axes[0].lines if line.get_marker() != "*"]
    assert [line.get_linestyle() for line in curves] == ["--", "-", "--", "-"]
    colours = [line.get_color() for line in curves]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    marks = [tuple(line.get_xydata()[0]) for line in figure.axes[0].lines if line.get_marker() == "*"]
    assert marks == [(2, 2.0), (1, 2.5)]  # of the validation
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["adam", "sgd", "training", "validation"]


def test_histories_of_training_alone_are_solid():
    figure = kt.plot.compare({"a": a_history({"loss": 2.0}), "b": a_history({"loss": 1.0})}, log_scale=True)
    assert {line.get_linestyle() for line in figure.axes[0].lines} <= {"-", "None"}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert figure.axes[0].get_yscale() == "log"


def test_names_choose_and_may_be_missing_in_a_history():
    histories = {"a": a_history({"loss": 2.0, "lr": 0.1}), "b": a_history({"f1": 1.0})}
    assert titles_of(kt.plot.compare(histories, ["f1", "lr"])) == ["f1", "lr"]
    with pytest.raises(KeyError, match=r"No value \\?'los\\?' to draw\. Did you mean \\?'loss\\?'\?"):
        kt.plot.compare(histories, ["los"])


def test_several_validation_sets_are_told_apart_by_style():
    row = {"loss": 1.0, "val_a_loss": 1.0, "val_b_loss": 1.0}
    figure = kt.plot.compare({"x": a_history(row), "y": a_history(row)})
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["x", "y", "training", "validation a", "validation b"]
    assert len({str(line._unscaled_dash_pattern) for line in figure.legends[0].get_lines()[2:]}) == 3


@pytest.mark.parametrize("histories", [[a_history({"loss": 1.0})], a_history({"loss": 1.0}), {"a": {"loss": [1.0]}}])
def test_histories_come_by_name(histories):
    with pytest.raises(TypeError, match="histories is a dict of what fit returns"):
        kt.plot.compare(histories)


@pytest.mark.parametrize("histories", [{}, {"a": a_history()}])
def test_nothing_to_compare_is_an_error(histories):
    with pytest.raises(ValueError, match="There is nothing to draw"):
        kt.plot.compare(histories)


# ---------------------------------------------------------------- samples


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        (X.numpy(), Y.numpy()),
        TensorDataset(X, Y),
        Subset(TensorDataset(X, Y), range(24)),
        DataLoader(TensorDataset(X, Y), 4),
        [(X[:6], Y[:6]), (X[6:], Y[6:])],
        [{"pixels": X, "labels": Y}],
        {"pixels": X, "labels": Y},
        ((X, torch.zeros(24, 2)), Y),
    ],
    ids=lambda data: type(data).__name__,
)
def test_any_form_of_data_gives_its_first_samples(data):
    figure = kt.plot.samples(data, 5, seed=None)
    assert titles_of(figure) == ["0", "1", "2", "0", "1"]
    for image, expected in zip(images_of(figure), X, strict=False):
        assert np.allclose(image[..., 0] if image.ndim == 3 else image, expected[0])


def test_a_seed_chooses_among_all_samples_the_same_each_time():
    def shades(**options):
        return [round(float(image.mean()) * 24) for image in images_of(kt.plot.samples((X, Y), 9, **options))]

    assert shades() == shades(seed=0) != shades(seed=1) != shades(seed=None) == list(range(9))
    assert len(set(shades())) == 9
    dataset = [round(float(image.mean()) * 24) for image in images_of(kt.plot.samples(TensorDataset(X, Y), 9))]
    assert dataset == shades()


def test_a_dataset_of_pictures_is_asked_for_these_only():
    data = Pictures()
    figure = kt.plot.samples(data, 4)
    assert len(data.asked) == 4
    assert titles_of(figure) == [data.classes[index % 3] for index in data.asked]
    assert [round(float(image.mean()) * 255) for image in images_of(figure)] == data.asked


def test_a_stream_of_pictures_is_read_no_further():
    class Stream(IterableDataset):
        def __iter__(self):
            for index in range(5):
                assert index < 3
                yield {"image": Image.new("L", (4, 4), index), "label": index}

    assert titles_of(kt.plot.samples(Stream(), 3, classes={0: "zero", 2: "two"})) == ["zero", "1", "two"]


def test_fewer_samples_than_wanted_are_all_shown():
    assert len(kt.plot.samples((X[:2], Y[:2])).axes) == 2
    assert len(kt.plot.samples(iter([(X[:2], Y[:2])])).axes) == 2


def test_samples_need_no_labels():
    assert titles_of(kt.plot.samples(X, 2)) == ["", ""]


@pytest.mark.parametrize("data", [Pictures(), DataLoader(TensorDataset(X, Y), 4, shuffle=True), (X, Y)])
def test_random_numbers_stay_as_they_were(data):
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    kt.plot.samples(data)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())


def test_names_are_found_behind_subsets_and_loaders():
    class Named(TensorDataset):
        classes = ("ant", "bee", "cat")

    class Column:
        names = ("ant", "bee", "cat")

    class HuggingFace(Dataset):
        features = {"image": None, "label": Column()}  # noqa: RUF012

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return {"image": X[index], "label": index}

    named = Named(X, Y)
    for data in (named, Subset(named, range(3)), DataLoader(Subset(named, range(3)), 3), HuggingFace()):
        assert titles_of(kt.plot.samples(data, 3, seed=None)) == ["ant", "bee", "cat"]


@pytest.mark.parametrize(
    ("label", "text"),
    [
        (torch.tensor(1), "bee"),
        (torch.tensor([2]), "cat"),
        (np.int64(0), "ant"),
        (1.0, "bee"),
        (True, "bee"),
        (7, "7"),
        (-1, "-1"),
        (0.25, "0.250"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        ("own", "own"),
        (None, ""),
        (torch.tensor([0, 1, 1]), "bee, cat"),
        (torch.tensor([0.2, 0.8]), ""),
        (torch.zeros(4, 4), ""),
        ({"boxes": 1}, ""),
        ("a name of a class that is much too long", "a name of a class\nthat is much too\nlong"),
    ],
)
def test_labels_are_said_in_words(label, text):
    assert called(label, ["ant", "bee", "cat"]) == text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ((torch.rand(5, 784), Y[:5]), r"There are no images in float32 .*reshape\(-1, 1, 28, 28\)"),
        (TensorDataset(torch.rand(5), Y[:5]), "There is no image in a sample"),
        ((torch.rand(5, 12, 8, 8), Y[:5]), r"An image is .* got the shape \(12, 8, 8\)"),
        (iter([]), "There are no samples to draw"),
        (None, "There is no data"),
        ([()], "A batch is"),
    ],
)
def test_what_holds_no_images_is_told(data, text):
    with pytest.raises(DataError, match=text):
        kt.plot.samples(data)


def test_arguments_of_pictures_are_looked_at():
    with pytest.raises(ValueError, match="n is a number of images, 1 or more; got 0"):
        kt.plot.samples(X, 0)
    with pytest.raises(TypeError, match="classes is a list of names"):
        kt.plot.samples(X, classes="cat")


def test_matplotlib_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (lambda: kt.plot.samples(X), lambda: kt.plot.confusion_matrix([[1, 0], [0, 1]])):
        with pytest.raises(MissingPackageError, match=r"kt.plot.* needs the package 'matplotlib'"):
            draw()


# ---------------------------------------------------------------- images


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind", ["uint8", "float32", "float64", "bfloat16", "bool"])
def test_every_layout_and_dtype_shows_the_same(channels, first, kind):
    array = np.arange(6 * 7 * channels).reshape(6, 7, channels) % 2 * 255
    image = torch.from_numpy(array).to(torch.uint8)
    image = image if kind == "uint8" else (image / 255).to(getattr(torch, kind))
    image = image.permute(2, 0, 1) if first else image
    (shown,) = visible([image])
    assert np.allclose(shown, array / 255)
    if kind != "bfloat16":
        assert np.allclose(visible([image.numpy()])[0], array / 255)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_pictures_of_pil_in_every_mode(mode):
    image = Image.new("L", (7, 6), 255).convert("RGB" if mode == "CMYK" else "L")
    image = Image.new(mode, (7, 6), 255) if mode in ("I;16", "F") else image.convert(mode)
    (shown,) = visible([image])
    assert shown.shape[:2] == (6, 7)
    assert np.allclose(shown, 1)


def test_a_normalised_image_is_scaled_back():
    mean, deviation = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])
    images = torch.rand(9, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images[0, :, 0, 0], images[1, :, 0, 0] = 0, 1
    shown = visible(list((images - mean) / deviation[:, None, None]))
    for image, expected in zip(shown, images, strict=True):
        assert np.allclose(image, expected.permute(1, 2, 0), atol=1e-6)


def test_large_values_are_shared_by_all_images():
    dark, bright = torch.full((4, 4), 4.0), torch.full((4, 4), 16.0)
    assert [float(image.mean()) for image in visible([dark, bright])] == [0.25, 1.0]


shapes = st.sampled_from([(5, 6), (1, 5, 6), (3, 5, 6), (5, 6, 3), (1, 1, 5, 6), (4, 5, 6)])


@settings(max_examples=40)
@given(st.lists(st.tuples(shapes, st.floats(-1e30, 1e30), st.sampled_from([0.0, 1.0, 300.0])), min_size=1, max_size=4))
def test_whatever_is_shown_is_between_black_and_white(given):
    images = [torch.full(shape, value) + torch.rand(shape) * spread for shape, value, spread in given]
    images[0].view(-1)[0] = math.nan
    for image in visible(images):
        assert image.ndim == 3
        assert image.min() >= 0
        assert image.max() <= 1.0001


@pytest.mark.parametrize(("n", "columns"), [(1, 1), (2, 2), (4, 2), (8, 4), (9, 3), (10, 5), (16, 4), (24, 6)])
def test_a_grid_is_nearly_square(n, columns):
    figure = kt.plot.samples(X, n)
    assert figure.axes[0].get_subplotspec().get_gridspec().ncols == columns


# ---------------------------------------------------------------- predictions


class Reader(nn.Module):
    """Reads the class off the shade, but takes every class 2 for class 1."""

    def forward(self, x):
        self.training_was = self.training
        classes = (x.flatten(1).mean(1) * 24).round().long() % 3
        return nn.functional.one_hot(classes.clamp_max(1), 3) * 4.0


@pytest.fixture
def model():
    return kt.Model(Reader())


def test_predictions_are_compared_with_the_truth(model):
    figure = kt.plot.predictions(model, (X, Y), ["ant", "bee", "cat"], n=3, seed=None)
    assert titles_of(figure) == ["ant  96 %", "bee  96 %", "bee  96 %\nis cat"]
    right, _, wrong = figure.axes
    assert right.title.get_color() == RIGHT
    assert wrong.title.get_color() == WRONG
    assert [axes.spines["left"].get_visible() for axes in (right, wrong)] == [False, True]
    assert not model.module.training_was
    assert model.training


@pytest.mark.parametrize("data", [(X, Y), TensorDataset(X, Y), DataLoader(TensorDataset(X, Y), 5), iter([(X, Y)])])
def test_only_those_that_are_wrong(model, data):
    figure = kt.plot.predictions(model, data, n=4, only="wrong", seed=None)
    assert titles_of(figure) == ["1  96 %\nis 2"] * 4
    assert [round(float(image.mean()) * 24) for image in images_of(figure)] == [2, 5, 8, 11]


def test_data_are_read_no_further_than_needed(model):
    def batches():
        yield X[:12], Y[:12]
        raise AssertionError("read too far")

    kt.plot.predictions(model, batches(), n=4, only="wrong")
    kt.plot.predictions(model, batches(), n=12)


def test_without_labels_there_are_only_answers(model):
    figure = kt.plot.predictions(model, X, n=3, seed=None)
    assert titles_of(figure) == ["0  96 %", "1  96 %", "1  96 %"]
    with pytest.raises(DataError, match=r"There are no labels to compare with.*Pass \(x, y\)"):
        kt.plot.predictions(model, X, only="wrong")


def test_a_model_that_is_right_has_nothing_wrong(model):
    with pytest.raises(DataError, match="the model is right about every sample"):
        kt.plot.predictions(model, (X[:2], Y[:2]), only="wrong")
    with pytest.raises(DataError, match="read before"):
        kt.plot.predictions(model, iter([]))


def test_a_net_that_is_double_gets_its_own_dtype():
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
    kt.plot.predictions(kt.Model(net), (X.double(), Y), n=1)


def test_predictions_disturb_nothing():
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Dropout(), nn.Linear(16, 3))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    kt.plot.predictions(kt.Model(net), DataLoader(TensorDataset(X, Y), 5, shuffle=True))
    kt.plot.confusion_matrix(kt.Model(net), DataLoader(TensorDataset(X, Y), 5, shuffle=True))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training


def test_a_bare_net_and_a_misspelt_option_are_refused(model):
    with pytest.raises(TypeError, match=r"needs a kerastorch.Model; got a Reader. Type kt.Model\(net\)\."):
        kt.plot.predictions(Reader(), X)
    with pytest.raises(ValueError, match="only is 'wrong' or None; got 'right'"):
        kt.plot.predictions(model, X, only="right")


@pytest.mark.parametrize(
    ("output", "labels", "sure", "count"),
    [
        (torch.tensor([[0.0, math.log(3.0)]]), [1], [0.75], 2),
        (torch.tensor([[0.25, 0.75]]), [1], [0.75], 2),
        (torch.tensor([[0.25, 0.75]]).log(), [1], [0.75], 2),
        (torch.tensor([math.log(3.0), -math.log(3.0)]), [1, 0], [0.75, 0.75], 2),
        (torch.tensor([[0.9], [0.2]]), [1, 0], [0.9, 0.8], 2),
        ({"logits": torch.tensor([[0.0, math.log(3.0), -100.0]])}, [1], [0.75], 3),
        (torch.tensor([[0.0, math.log(3.0)]]).bfloat16(), [1], [0.75], 2),
    ],
)
def test_outputs_are_read_as_logits_or_probabilities(output, labels, sure, count):
    found = answers(output)
    assert found[0].tolist() == labels
    assert found[1].tolist() == pytest.approx(sure, abs=2e-3)
    assert found[2] == count
    assert found[0].dtype == torch.int64


@pytest.mark.parametrize("output", [torch.zeros(2, 3, 4), {"mask": torch.zeros(2)}, (torch.zeros(2), 1), None])
def test_an_output_that_is_no_classifier_is_refused(output):
    with pytest.raises(MismatchError, match="A classifier gives"):
        answers(output)


# ---------------------------------------------------------------- confusion_matrix


def cells_of(figure):
    return np.asarray(figure.axes[0].images[0].get_array())


def texts_of(figure):
    return [text.get_text() for text in figure.axes[0].texts]


COUNTS = [[8, 0, 0], [0, 8, 0], [0, 8, 0]]


@pytest.mark.parametrize("target", [Y, Y[:, None], nn.functional.one_hot(Y, 3), Y.int()])
def test_a_model_is_counted_over_all_data(model, target):
    figure = kt.plot.confusion_matrix(model, DataLoader(TensorDataset(X, target), 7, shuffle=True))
    assert cells_of(figure).tolist() == COUNTS
    assert texts_of(figure) == [str(value) for row in COUNTS for value in row]
    assert figure.axes[0].get_title() == "66.7 % of 24 are right"


def test_it_agrees_with_the_metric(model):
    model.compile("cross_entropy", metrics=["confusion_matrix"])
    matrix = model.evaluate((X, Y))["confusion_matrix"]
    assert cells_of(kt.plot.confusion_matrix(matrix)).tolist() == matrix.tolist() == COUNTS


def test_two_classes_of_one_output():
    class One(nn.Module):
        def forward(self, x):
            return x.flatten(1).mean(1, keepdim=True) - 0.5

    figure = kt.plot.confusion_matrix(kt.Model(One()), (X, (torch.arange(24) > 12).float()[:, None]))
    assert cells_of(figure).tolist() == [[13, 0], [0, 11]]


def test_ignored_labels_do_not_count(model):
    target = Y.clone()
    target[12:] = -100
    assert cells_of(kt.plot.confusion_matrix(model, (X, target))).sum() == 12
    with pytest.raises(DataError, match="Every label is -100"):
        kt.plot.confusion_matrix(model, (X, target.fill_(-100)))
    with pytest.raises(MismatchError, match="There are 3 classes, but labels from 0 to 7"):
        kt.plot.confusion_matrix(model, (X, torch.arange(24) % 8))


@pytest.mark.parametrize(
    ("normalize", "expected"),
    [
        ("true", [[0.75, 0.25], [0.0, 0.0]]),
        ("pred", [[1.0, 1.0], [0.0, 0.0]]),
        ("all", [[0.75, 0.25], [0.0, 0.0]]),
        (None, [[3.0, 1.0], [0.0, 0.0]]),
    ],
)
def test_it_is_normalized(normalize, expected):
    figure = kt.plot.confusion_matrix(torch.tensor([[3, 1], [0, 0]]), normalize=normalize)
    assert cells_of(figure).tolist() == expected


@pytest.mark.parametrize("matrix", [np.eye(2), [[1, 0], [0, 1]], torch.eye(2).int(), torch.eye(2, requires_grad=True)])
def test_a_matrix_may_be_of_any_kind(matrix):
    assert cells_of(kt.plot.confusion_matrix(matrix)).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("count", [2, 3, 10, 20, 21, 50, 51, 100])
def test_any_number_of_classes(count):
    figure = kt.plot.confusion_matrix(torch.eye(count) * 7, classes=[f"class {i}" for i in range(count)])
    figure.draw_without_rendering()
    assert len(texts_of(figure)) == (count**2 if count <= 20 else 0)
    ticks = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert len(ticks) == (count if count <= 50 else math.ceil(count / 10))


def luminance(colour):
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in colour[:3]]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_numbers_can_be_read_on_every_ground():
    from matplotlib.colors import to_rgba

    figure = kt.plot.confusion_matrix(torch.arange(1, 401).reshape(20, 20))
    (image,) = figure.axes[0].images
    for text, value in zip(figure.axes[0].texts, range(1, 401), strict=True):
        bright, dark = sorted([luminance(image.cmap(image.norm(value))), luminance(to_rgba(text.get_color()))])[::-1]
        assert (bright + 0.05) / (dark + 0.05) > 3  # WCAG 2.1, large text


def test_what_is_no_confusion_matrix_is_refused(model):
    with pytest.raises(MismatchError, match=r"is \(C, C\); got \(2, 3\)"):
        kt.plot.confusion_matrix(torch.ones(2, 3))
    with pytest.raises(MismatchError, match=r"matrix\[0\]"):
        kt.plot.confusion_matrix(torch.ones(3, 2, 2))
    with pytest.raises(TypeError, match=r"needs data with labels: confusion_matrix\(model, data\)"):
        kt.plot.confusion_matrix(model)
    with pytest.raises(TypeError, match=r"matrix is numbers \(C, C\) or a kerastorch.Model; got a object"):
        kt.plot.confusion_matrix(object())
    with pytest.raises(TypeError, match=r"needs a kerastorch\.Model; got a Tensor"):
        kt.plot.confusion_matrix(torch.eye(2), (X, Y))
    with pytest.raises(ValueError, match="Did you mean 'true'"):
        kt.plot.confusion_matrix(torch.eye(2), normalize="tru")
    with pytest.raises(ValueError, match="There are 2 classes, but 3 names"):
        kt.plot.confusion_matrix(torch.eye(2), classes=["a", "b", "c"])
    with pytest.raises(DataError, match="There are no labels to compare with"):
        kt.plot.confusion_matrix(model, X)
    with pytest.raises(MismatchError, match="Labels are"):
        kt.plot.confusion_matrix(model, (X, torch.zeros(24, 3, 3).long()))


class Constant(nn.Module):
    """Says the same of every sample."""

    def __init__(self, *values):
        super().__init__()
        self.values = nn.Parameter(torch.tensor(values))

    def forward(self, x):
        return self.values.expand(len(x), -1)


def compiled(net, loss):
    model = kt.Model(net)
    model.compile(loss, "sgd", ["accuracy"])
    return model


ONES = torch.ones(24, 1)


def test_logits_within_0_and_1_are_logits_where_the_loss_says_so():
    """An accuracy of 1.0 was drawn as one of 0."""
    model = compiled(Constant(0.3), "bce_with_logits")
    assert model.evaluate((X, ONES), verbose=0)["accuracy"] == 1
    assert kt.plot.confusion_matrix(model, (X, ONES)).axes[0].get_title() == "100.0 % of 24 are right"
    assert titles_of(kt.plot.predictions(model, (X, ONES), n=1)) == ["1  57 %"]


def test_probabilities_and_their_logarithms_are_so_where_the_loss_says_so():
    assert titles_of(kt.plot.predictions(compiled(Constant(0.3), nn.BCELoss()), (X, ONES), n=1)) == ["0  70 %\nis 1"]
    model = compiled(Constant(math.log(0.25), math.log(0.75)), nn.NLLLoss())
    assert titles_of(kt.plot.predictions(model, (X, Y % 2), n=1, seed=None)) == ["1  75 %\nis 0"]
    assert answers(torch.tensor([0.25]).log(), "log_probabilities")[1].item() == pytest.approx(0.75)


def test_without_a_loss_one_batch_tells_what_all_are():
    class Mean(nn.Module):
        def forward(self, x):
            return x.flatten(1).mean(1, keepdim=True) * 4 - 3  # -3 to 0.8: logits

    loader = DataLoader(TensorDataset(X.flip(0), torch.ones(24)), 2)  # the first batches are within 0 and 1
    titles = titles_of(kt.plot.predictions(kt.Model(Mean()), loader, n=24))
    assert titles[0].startswith("1  70 %")
    assert sum(title.startswith("1") for title in titles) == 5


def test_a_regression_is_no_classifier():
    model = compiled(Constant(0.5), "mse")
    for draw in (kt.plot.predictions, kt.plot.confusion_matrix):
        with pytest.raises(MismatchError, match=r"no classes but numbers such as 2\.5: is the model a regression\?"):
            draw(model, (X, ONES * 2.5))
    with pytest.raises(MismatchError, match="There are 2 classes, but labels from 7 to 7"):
        kt.plot.predictions(model, (X, ONES * 7))


def test_soft_labels_are_those_of_the_likelier_class(model):
    one = compiled(Constant(0.3), "bce_with_logits")
    assert cells_of(kt.plot.confusion_matrix(one, (X, ONES * 0.9))).tolist() == [[0, 0], [0, 24]]
    soft = nn.functional.one_hot(Y, 3) * 0.7 + 0.1
    assert cells_of(kt.plot.confusion_matrix(model, (X, soft))).tolist() == COUNTS
    several = torch.tensor([[1.0, 1.0, 0.0]]).expand(24, 3)
    with pytest.raises(MismatchError, match=r"one class a sample, .* got a row \[1, 1, 0\]"):
        kt.plot.confusion_matrix(model, (X, several))


def test_what_is_not_labelled_is_not_wrong(model):
    target = Y.clone()
    target[:3] = -100
    titles = titles_of(kt.plot.predictions(model, (X, target), n=4, seed=None))
    assert titles == ["0  96 %\nnot labelled", "1  96 %\nnot labelled", "1  96 %\nnot labelled", "0  96 %"]
    assert titles_of(kt.plot.predictions(model, (X, target), n=1, only="wrong")) == ["1  96 %\nis 2"]
    assert titles_of(kt.plot.samples((X, target), 1, seed=None)) == ["not labelled"]
    other = compiled(Reader(), nn.CrossEntropyLoss(ignore_index=2))
    assert cells_of(kt.plot.confusion_matrix(other, (X, Y))).sum() == 16


def test_nan_is_no_answer():
    for loss, values in (("bce_with_logits", [math.nan]), ("cross_entropy", [math.nan, 0.0])):
        model = kt.Model(Constant(*values))
        model.compile(loss, "sgd")
        for draw in (kt.plot.predictions, kt.plot.confusion_matrix):
            with pytest.raises(ValueError, match="24 of 24 outputs are NaN"):
                draw(model, DataLoader(TensorDataset(X, ONES if len(values) == 1 else Y % 2), 24))


def test_a_generator_of_a_loader_stays_as_it_was(model):
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(TensorDataset(X, Y), 4, shuffle=True, generator=generator)
    before = generator.get_state()
    kt.plot.samples(loader)
    kt.plot.predictions(model, loader)
    kt.plot.confusion_matrix(model, loader)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("name", ["label", "labels", "target"])
def test_a_loader_of_dicts_keeps_its_labels(name):
    class Dicts(Dataset):
        def __len__(self):
            return 24

        def __getitem__(self, index):
            return {"image": X[index], name: index % 3}

    assert titles_of(kt.plot.samples(DataLoader(Dicts(), 8), 4)) == ["0", "1", "2", "0"]


# ---------------------------------------------------------------- real data


def test_real_images(real_data):
    from torchvision.datasets import MNIST, ImageFolder

    figure = kt.plot.samples(MNIST(real_data, train=False))
    assert {image.shape for image in images_of(figure)} == {(28, 28)}
    assert all(title[1:4] == " - " for title in titles_of(figure))
    figure = kt.plot.samples(ImageFolder(real_data / "cifar10" / "test"))
    assert {image.shape for image in images_of(figure)} == {(32, 32, 3)}
    assert len(set(titles_of(figure))) > 3
