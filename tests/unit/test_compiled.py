"""What is compiled where a compiler is at hand: the same sources, so they may not hold what a compiler gets wrong."""

import ast
import importlib.util
import inspect
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest

from bulkgrok.core.values import quick

ROOT = Path(__file__).parents[2]
HOOK = ROOT / ".build" / "compile.py"


def names_of(constant):
    for made in ast.parse(HOOK.read_text()).body:
        if isinstance(made, ast.Assign) and made.targets[0].id == constant:
            return " ".join(ast.literal_eval(made.value)).split()
    raise AssertionError(constant)


MODULES = names_of("MODULES")


def trees():
    return {name: ast.parse((ROOT / "bulkgrok" / f"{name}.py").read_text()) for name in MODULES}


def nodes(kind):
    return [(name, node) for name, tree in trees().items() for node in ast.walk(tree) if isinstance(node, kind)]


def test_every_module_that_is_compiled_is_there():
    assert len(set(MODULES)) == len(MODULES) > 40
    assert all((ROOT / "bulkgrok" / f"{name}.py").is_file() for name in MODULES)


def test_nothing_is_awaited_in_an_except_or_a_finally_that_is_compiled():
    awaits = [
        f"{name}:{node.lineno}"
        for name, tried in nodes(ast.Try)
        for statement in [*tried.finalbody, *tried.handlers]
        for node in ast.walk(statement)
        if isinstance(node, ast.Await | ast.AsyncWith | ast.AsyncFor | ast.Yield)
    ]
    assert awaits == []


def test_no_class_that_is_compiled_names_its_slots():
    slots = [
        f"{name}:{node.lineno}"
        for name, made in nodes(ast.ClassDef)
        for node in made.body
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__slots__" for target in node.targets)
    ]
    assert slots == []


def test_no_constant_that_is_compiled_is_a_tuple_of_floats():
    tuples = [
        f"{name}:{node.lineno}"
        for name, tree in trees().items()
        for node in tree.body
        if isinstance(node, ast.AnnAssign)
        and ast.unparse(node.annotation) == "Final"
        and isinstance(node.value, ast.Tuple)
        and any(isinstance(item, ast.Constant) and isinstance(item.value, float) for item in node.value.elts[:1])
    ]
    assert tuples == []


def test_no_class_of_the_interpreter_comes_of_one_that_is_compiled():
    compiled = {f"bulkgrok.{name.replace('/', '.')}" for name in MODULES}
    heirs = []
    for path in (ROOT / "bulkgrok").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if module in compiled:
            continue
        tree = ast.parse(path.read_text())
        taken = {
            name.asname or name.name
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and node.module in compiled
            for name in node.names
        }
        heirs += [
            f"{module}.{made.name}"
            for made in ast.walk(tree)
            if isinstance(made, ast.ClassDef) and taken & {ast.unparse(base).partition("[")[0] for base in made.bases}
        ]
    assert heirs == []


@pytest.fixture(scope="module")
def with_constructors():
    spec = importlib.util.spec_from_file_location("compile_hook", HOOK)
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    return hook.with_constructors


SOURCE = '''
@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A value."""

    row: int
    name: str = "none"
    """What it is called."""

    def double(self):
        return 2 * self.row


@dataclass(slots=True)
class Entry:
    row: int
    names: tuple[str, ...] = ()
'''


def test_a_constructor_in_writing_does_what_the_one_that_is_made_at_run_time_does(with_constructors):
    made, written = {"dataclass": dataclass, "quick": quick}, {"dataclass": dataclass, "quick": quick}
    exec(SOURCE, made)
    exec(with_constructors(SOURCE), written)
    for name in ("Value", "Entry"):
        one, other = made[name], written[name]
        assert [(each.name, each.default) for each in fields(one)] == [
            (each.name, each.default) for each in fields(other)
        ]
        assert list(inspect.signature(one).parameters) == list(inspect.signature(other).parameters)
        assert repr(one(row=3)) == repr(other(row=3))
    value = written["Value"](row=3)
    assert (value.name, value.double()) == ("none", 6)
    assert value == written["Value"](row=3) != replace(value, row=4)
    assert hash(value) == hash(written["Value"](row=3))
    assert written["Entry"](3, ("a",)).names == ("a",)
    with pytest.raises(TypeError, match="row"):
        written["Value"]()


def test_every_value_that_is_made_for_a_row_gets_one(with_constructors):
    for name in MODULES:
        source = (ROOT / "bulkgrok" / f"{name}.py").read_text()
        written = with_constructors(source)
        assert "\n@quick\n" not in written
        added = written.count("def __init__") - source.count("def __init__")
        assert added >= source.count("\n@quick\n")
        ast.parse(written)
