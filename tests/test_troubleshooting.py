"""docs/troubleshooting.md has every message that kerastorch raises, warns or says, and none that is gone.

The messages are read from the source, as templates: their text with `…` in the place of what a run fills in. The page
has the beginning of each in a block of ```text, one a line.
"""

import ast
import collections
import functools
import itertools
import re
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
GAP = "…"
ENOUGH = 14  # letters of a message that tell it from the others
FUNCTIONS = ast.FunctionDef, ast.AsyncFunctionDef

NOBODY_MEETS = {
    "A net cannot be evaluated without a loss.": "compile gives every model one",
    "A net cannot be trained without an optimizer.": "compile gives every model one",
    "a class of its own may have rows of its own": "caught: such data are not moved as a whole",
    "a line has the step of the optimizer by that name": "part of the warning that a logger leaves out a value",
    "autocast computes in": "part of the error that a precision does not work",
    "it draws from a generator of its own": "caught: the samples are not timed in workers",
    "it is a single sample already": "part of the note that a batch cannot be split",
    "it holds a …, which cannot be cut into samples": "part of the error that a batch cannot be split",
    "its inputs must be tensors": "part of the warning that a logger leaves out a value",
    "its parts overlap": "part of the error that a file is damaged",
    "no images": "part of the warning that a logger leaves out a value",
    "no input has the samples in dimension 0": "part of the error that a batch cannot be split",
    "on an accelerator": "caught: the samples are not timed in workers",
    "targets or weights of the shape": "part of the error that a batch cannot be split",
    "the net has changed its inputs in place": "part of the note that a batch cannot be split",
    "this run has no such step": "a call of fit sets the steps before any is made",
    "torch.onnx.export gave nothing": "part of the error that a net cannot be exported",
    "unreachable": "as it says",
    "… is no number, text, list or array": "part of the warning that a logger leaves out a value",
    "… numbers are too many for a text": "part of the warning that a logger leaves out a value",
}


class Module:
    """A file of the package: its functions, its imports, and what is inside what."""

    def __init__(self, path):
        self.path, self.tree = path, ast.parse(path.read_text(encoding="utf-8"))
        nodes = list(ast.walk(self.tree))
        self.inside = {child: node for node in nodes for child in ast.iter_child_nodes(node)}
        self.functions = {node.name: node for node in nodes if isinstance(node, FUNCTIONS)}
        froms = [node for node in nodes if isinstance(node, ast.ImportFrom)]
        self.imports = {one.asname or one.name: (node.module, one.name) for node in froms for one in node.names}

    def scope(self, node):
        """Return the function that a node is in, or the whole file."""
        while node is not self.tree and not isinstance(node, FUNCTIONS):
            node = self.inside.get(node, self.tree)
        return node


class Package:
    """All files of the package, and what their expressions can be as text."""

    def __init__(self, folder=ROOT / "kerastorch"):
        self.root, self.modules = folder.parent, {}
        for path in sorted(folder.rglob("*.py")):
            name = ".".join(path.relative_to(self.root).with_suffix("").parts)
            self.modules[name.removesuffix(".__init__")] = Module(path)
        self.calls = collections.defaultdict(list)
        for module in self.modules.values():
            for node in ast.walk(module.tree):
                self.calls[called(node)].append((node, module))

    def messages(self):
        """Return `{template: "file:line"}` of all errors, warnings, notes on errors, and lines that `fit` says."""
        found = {}
        for module in self.modules.values():
            for node in ast.walk(module.tree):
                where = f"{module.path.relative_to(self.root)}:{getattr(node, 'lineno', 0)}"
                for expression in message_of(node, module):
                    texts = self.texts(expression, module)
                    found |= {plain(lead(node) + text): where for text in texts if letters(text) > 1}
        return found

    def texts(self, node, module, depth=0):
        """Return what an expression can be, with `…` for what only a run knows."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return [node.value]
        if depth > 8:
            return [GAP]

        def among(nodes):
            return [self.texts(one, module, depth + 1) for one in nodes]

        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return joined(among([node.left, node.right]))
        if isinstance(node, ast.JoinedStr):
            return joined(self.parts(node, module, depth))
        if called(node) == "join" and node.args and isinstance(node.args[0], ast.List):
            return joined(among([part for one in node.args[0].elts for part in (one, node.func.value)]))
        choices = self.choices(node, module)
        return list(dict.fromkeys(t for one, home in choices for t in self.texts(one, home, depth + 1))) or [GAP]

    def parts(self, node, module, depth):
        """Yield what each part of an f-string can be: the first, and all where nearly nothing is written in it."""
        values = [getattr(part, "value", part) for part in node.values]
        is_open = letters("".join(value for value in values if isinstance(value, str))) < ENOUGH
        for place, value in enumerate(values):
            is_beginning = (
                not place and isinstance(value, ast.Name) and any(assigned(value.id, module.scope(value), module))
            )
            if isinstance(value, str):
                yield [value]
            else:
                yield self.texts(value, module, depth + 1) if is_open or is_beginning else [GAP]

    def choices(self, node, module):
        """Yield the expressions that one may stand for, each with its module."""
        if isinstance(node, ast.IfExp):
            yield from ((node.body, module), (node.orelse, module))
        elif isinstance(node, ast.Name):
            scope = module.scope(node)
            yield from assigned(node.id, scope, module)
            if scope is not module.tree:
                yield from self.given(node.id, scope, module)
                yield from assigned(node.id, module.tree, module)
            source, name = module.imports.get(node.id, (None, None))
            if source in self.modules:
                yield from assigned(name, self.modules[source].tree, self.modules[source])
        elif isinstance(node, ast.Call):
            yield from self.returned(node, module)

    def given(self, name, function, module):
        """Yield what a parameter is given where its function is called."""
        names = [argument.arg for argument in function.args.args if argument.arg not in ("self", "cls")]
        place = names.index(name) if name in names else len(names)
        for call, other in self.calls[function.name] if name in names else ():
            if other is module or other.imports.get(function.name, (None,))[0] in self.modules:
                yield from ((one.value, other) for one in call.keywords if one.arg == name)
                yield from ((one, other) for one in call.args[place : place + 1])

    def returned(self, call, module):
        """Yield what a function of the package returns or yields; a method, if no other has its name."""
        if called(call) in ("next", "filter", "map"):
            inner = [ast.Call(one, [], []) if isinstance(one, ast.Name) else one for one in call.args]
            yield from ((one, module) for one in inner if isinstance(one, ast.Call))
        name = module.imports.get(called(call), (None, called(call)))[1]
        homes = [module] if name in module.functions else [m for m in self.modules.values() if name in m.functions]
        for home in homes if len(homes) == 1 else ():
            for one in ast.walk(home.functions[name]):
                if isinstance(one, (ast.Return, ast.Yield)) and one.value is not None:
                    yield one.value, home


def called(node):
    if not isinstance(node, ast.Call):
        return ""
    return getattr(node.func, "attr", None) or getattr(node.func, "id", "")


def message_of(node, module):
    """Return the expressions of the text, if a node makes an error, a warning, a note or a line of output."""
    name, path = called(node), module.path
    if name == "add_note":
        return node.args[-1:]
    if name == "say" and "display" not in path.parts:
        return node.args[:1]
    if name in ("warn", "Refused") or name.endswith(("Error", "Exception")):
        return node.args[:1]
    if path.name == "hints.py" and isinstance(node, ast.AnnAssign) and node.target.id == "_HINTS":
        found = [row.elts[1] for row in node.value.elts]
        return found + [ast.Call(one, [], []) for one in found if isinstance(one, ast.Name)]
    return []


def assigned(name, scope, module):
    """Yield what a name is assigned in a function or file, or goes through in a loop."""
    nodes = scope.body if scope is module.tree else ast.walk(scope)
    for one in nodes:
        targets = one.targets if isinstance(one, ast.Assign) else [getattr(one, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            yield getattr(one, "value", None) or getattr(one, "iter", None), module


def joined(parts):
    return ["".join(one) for one in itertools.islice(itertools.product(*parts), 512)]


def plain(text):
    text = re.sub(r"…[…\s]*…", GAP, " ".join(text.split()))
    return re.sub(r"(?<=\.)…", "", text)  # a hint that may be there


def lead(node):
    return "jit_compile: the step is not one graph, as " if called(node) == "Refused" else ""


@functools.cache
def letters(text):
    return len(re.findall(r"\w", text))


@functools.cache
def pieces(text):
    """Return the longest piece between gaps, and the pattern of all."""
    found = text.rstrip(" .…").split(GAP)
    return max(found, key=len), re.compile(".*".join(map(re.escape, found)))


def begins(text, with_):
    longest, pattern = pieces(with_)
    return longest in text and pattern.match(text) is not None


def matches(line, template):
    """Whether a line of the page is the beginning of a message, or the whole, with what is filled in."""
    known = min(ENOUGH, letters(template))
    if letters(line) >= (known if line.startswith(GAP) else known // 2) and begins(template, with_=line):
        return True
    return letters(template) >= ENOUGH and begins(line, with_=template)


def lines_of(text):
    blocks = re.findall(r"^( *)```text\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE)
    return [line.strip() for _, block in blocks for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def messages():
    return Package().messages()


@pytest.fixture(scope="module")
def lines():
    return lines_of(PAGE.read_text(encoding="utf-8"))


def test_the_page_has_every_message(messages, lines):
    known = [*lines, *NOBODY_MEETS]
    missing = {where: text for text, where in messages.items() if not any(matches(line, text) for line in known)}
    said = "".join(f"\n{where}\n{textwrap.indent(text, '    ')}" for where, text in missing.items())
    assert not missing, (
        f"docs/troubleshooting.md lacks {len(missing)} messages. Put the beginning of each, as printed here, into a "
        "block of ```text in the section that it belongs to, on a line of its own, with its cause and what to do "
        f"below; into the block of a like one, if there is one.{said}"
    )


def test_the_page_has_no_message_that_is_gone(messages, lines):
    gone = [line for line in lines if not any(matches(line, text) for text in messages)]
    said = "".join(f"\n    {line}" for line in gone)
    assert not gone, f"Of these lines of docs/troubleshooting.md no message begins so any more; change them:{said}"


def test_a_new_message_is_found_wherever_it_is_written(tmp_path):
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "texts.py").write_text(
        "LONG = 'This is what a constant of another file says.'\n"
        "def told(name):\n"
        "    if name:\n        return f'{name} is told by a function elsewhere.'\n    return 'Nothing.'\n"
    )
    (folder / "raises.py").write_text(
        "from package.texts import LONG, told\n"
        "def check(value, text='no'):\n"
        "    found = f'The value {value!r} is wrong'\n"
        "    if text:\n        raise Error(text)\n"
        "    if value:\n        warnings.warn(f'{found}, and so this is a warning.')\n"
        "    raise ValueError(LONG) if value else KeyError(told(value))\n"
        "check(1, text='Given where it is called.')\n"
    )
    found = Package(folder).messages()
    assert set(found) == {
        "The value … is wrong, and so this is a warning.",
        "This is what a constant of another file says.",
        "… is told by a function elsewhere.",
        "Nothing.",
        "Given where it is called.",
    }
    assert found["This is what a constant of another file says."] == "package/raises.py:8"


@pytest.mark.parametrize(
    ("line", "is_found"),
    [
        ("The batch … has …", True),  # the beginning
        ("The batch 3 has 7 samples, but 8 were asked for.", True),  # the whole, filled in
        ("… has … samples, but … were", True),
        ("The batch … has … items", False),
        ("… has …", False),  # says too little
        ("samples, but … were asked for", False),  # not the beginning
    ],
)
def test_a_line_of_the_page_is_the_beginning_of_a_message(line, is_found):
    assert matches(line, "The batch … has … samples, but … were asked for.") is is_found


def test_no_message_is_on_the_page_twice(lines):
    assert [line for line in set(lines) if lines.count(line) > 1] == []


def test_the_exceptions_are_there(messages):
    gone = [line for line in NOBODY_MEETS if not any(matches(line, text) for text in messages)]
    assert not gone, f"NOBODY_MEETS in {Path(__file__).name} has what no message begins with: {gone}"
