"""The Chinese README says what README.md says; the programs of the Chinese pages run, and do what is said of them."""

import io
import json
import re
import tokenize
from pathlib import Path

import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch.errors import KerastorchError
from tests.programs import run_program

ROOT = Path(__file__).parents[1]
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
PAGES = [CHINESE, *sorted((ROOT / "docs" / "zh").glob("*.md"))]
TUTORIALS = ROOT / "docs" / "zh" / "tutorials.md"
FENCED = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)


def sections(page):
    """Return the text of each section, from one `##` to the next."""
    return re.split(r"^## .*$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)


def without_comments(block):
    """Return the lines of code, each without its comment: these are translated."""
    lines = block.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(block).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip()
    return lines


def blocks(text):
    return [
        (kind, without_comments(block) if kind == "python" else block.splitlines())
        for kind, block in FENCED.findall(text)
    ]


def links(text):
    targets = re.findall(r"\]\(([^)]+)\)", FENCED.sub("", text))
    own = ("README", "docs/zh/")  # each names the other, and the Chinese pages stand in the Chinese one
    return sorted(target for target in targets if not target.startswith(own))


def in_code(text):
    return set(re.findall(r"`([^`\n]+)`", FENCED.sub("", text)))


def table_rows(text):
    return [row.count("|") for row in FENCED.sub("", text).splitlines() if row.startswith("|")]


@pytest.mark.parametrize("part", [blocks, links, in_code, table_rows])
def test_the_chinese_readme_has_all_of_readme(part):
    found, wanted = ([part(text) for text in sections(page)] for page in (CHINESE, ENGLISH))
    assert found == wanted


def test_each_readme_names_the_other():
    assert "(README.md)" in sections(CHINESE)[0]
    assert "(README.zh-CN.md)" in sections(ENGLISH)[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_punctuation_of_chinese_is_that_of_chinese(page):
    text = re.sub(r"`[^`\n]+`", "x", FENCED.sub("", page.read_text(encoding="utf-8")))
    assert re.findall(r".*[\u4e00-\u9fff][,;:?!(](?!/).*", text) == []
    assert re.findall(r".*[,;:?!)] ?[\u4e00-\u9fff].*", re.sub(r"\]\([^)]*\)", "]", text)) == []


def programs(page):
    """Return `{section: {title: program}}` of a page."""
    text = page.read_text(encoding="utf-8")
    return {
        heading: dict(re.findall(r'```python title="([^"]+)"\n(.*?)```', section, re.DOTALL))
        for heading, section in re.findall(r"^## (.*)\n((?:(?!## ).*\n)*)", text, re.MULTILINE)
    }


TOGETHER = """
import json, os, traceback
import torch

def run(text, folder):
    os.makedirs(folder)
    os.chdir(folder)
    names = {"__name__": "__main__"}
    exec(compile(text, folder, "exec"), names)
    os.chdir("../..")
    return names

def equal(first, second):
    first, second = first.state_dict(), second.state_dict()
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)

found = {}
for section, pair in PAIRS.items():
    try:
        by_hand, with_kerastorch = (run(text, f"{section}/{number}") for number, text in enumerate(pair))
        if section == "4":
            found[section] = all(equal(names["net"], names["loaded"]) for names in (by_hand, with_kerastorch))
        else:
            found[section] = section in "59" or equal(by_hand["net"], with_kerastorch["net"])
    except Exception:
        found[section] = traceback.format_exc()
        os.chdir(ROOT)
print(json.dumps(found))
"""


def tutorials():
    """Return the two programs of each section, by its number; with a GPU, kerastorch's is that of the first."""
    found = [tuple(titles.values()) for titles in programs(TUTORIALS).values()]
    assert [len(pair) for pair in found] == [2, 1, 2, 2, 2, 2, 2, 2, 2]
    found[1] = (*found[1], found[0][1])
    return {str(number): pair for number, pair in enumerate(found, 1)}


def for_one_epoch(program):
    """Return the program with one epoch: later ones are shuffled otherwise, as the page says."""
    for several, one in (("(10", "(1"), ("(3", "(1"), ("(1, 4)", "(1, 2)"), ("(net, 3", "(net, 1")):
        program = re.sub(rf"(?<=range|e_fit|l.fit|model){re.escape(several)}(?!\d)", one, program)
    return program


@pytest.fixture(scope="module")
def trained(real_data, tmp_path_factory):
    """The folder in which all pairs have run, in one process as torch is slow to import, and what was found."""
    folder = tmp_path_factory.mktemp("tutorials")
    (quickstart,) = (titles["MNIST"] for titles in programs(ROOT / "docs/zh/index.md").values() if titles)
    pairs = tutorials() | {"9": (quickstart, tutorials()["9"][1])}  # torchkeras itself need not be there
    pairs = {section: list(map(for_one_epoch, pair)) for section, pair in pairs.items()}
    done = run_program(f"ROOT, PAIRS = {str(folder)!r}, {pairs!r}\n{TOGETHER}", folder, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return folder, json.loads(done.stdout.splitlines()[-1]), done.stdout


@pytest.mark.parametrize("section", "123456789")
def test_both_programs_run_and_leave_the_same_net(trained, section):
    assert trained[1][section] is True, trained[1][section]


@pytest.mark.parametrize("section, weights", [("3", "weights"), ("6", "resnet34")])
def test_both_programs_leave_curves_and_a_file_per_epoch(trained, section, weights):
    by_hand, with_kerastorch = (trained[0] / section / number for number in "01")
    assert [path.name for path in (by_hand / weights).iterdir()] == ["epoch_1.pth"]
    assert [path.name for path in (with_kerastorch / weights).iterdir()] == ["epoch_01.pt"]
    for folder in (by_hand, with_kerastorch):
        assert list((folder / "logs").rglob("events*"))


def test_both_programs_name_a_class(trained, real_data):
    classes = {path.name for path in (real_data / "cifar10/test").iterdir()}
    assert sum(line in classes for line in trained[2].splitlines()) == 2


def test_a_program_of_torchkeras_needs_another_import_only():
    before, after = (text.splitlines() for text in tutorials()["9"])
    assert set(before) ^ set(after) == {"import torchkeras", "import kerastorch as torchkeras"}
    before.remove("import torchkeras")
    after.remove("import kerastorch as torchkeras")
    assert [line for line in before if line] == [line for line in after if line]


def test_programs_of_torchkeras_print_its_table(trained):
    assert (
        trained[2].count("| epoch |  loss | accuracy | val_loss | val_accuracy |") == 6 + 2
    )  # and those of the others


def test_the_table_counts_lines():
    def lines(program):
        _, rest = re.split(r"^# .*\n", program, flags=re.MULTILINE)  # the one comment at the margin
        return sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in rest.splitlines())

    text = TUTORIALS.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d)\. .* \| (\d+) \| (\d+) \|$", text, re.MULTILINE)
    assert {number: [int(by_hand), int(short)] for number, by_hand, short in rows} == {
        number: list(map(lines, pair)) for number, pair in tutorials().items()
    }


def compiled(outputs=10):
    model = kt.Model(nn.Sequential(nn.Linear(4, outputs)))
    model.compile("cross_entropy", "adam", device="cpu")
    return model


X, Y = torch.ones(64, 4), torch.arange(64) % 10
LOST = torch.where(torch.arange(64)[:, None] < 40, X, torch.nan)


def load_another(folder):
    kt.Model(nn.Linear(4, 4)).save_weights(folder / "other.pt")
    compiled().load_weights(folder / "other.pt")


MISTAKES = [
    lambda folder: kt.Model(nn.Linear(4, 10)).fit(1, (X, Y)),
    lambda folder: compiled(9).fit(1, (X, Y)),
    lambda folder: compiled().fit(1, (X, Y.float())),
    lambda folder: compiled().fit(1, (X, Y[:, None])),
    lambda folder: compiled().fit(1, (X, Y[:50])),
    lambda folder: compiled().fit(1, (LOST, Y), shuffle=False, verbose=0),
    load_another,
]


def test_the_table_of_errors_quotes_what_is_said(tmp_path):
    table = (ROOT / "docs" / "zh" / "index.md").read_text(encoding="utf-8").partition("| 报错")[2]
    quoted = re.findall(r"^\| `([^`]+)` \| .* \| .* \|$", table, re.MULTILINE)
    for mistake, words in zip(MISTAKES, quoted, strict=True):
        with pytest.raises(KerastorchError, match=re.escape(words).replace(r"\.\.\.", ".*")):
            mistake(tmp_path)
