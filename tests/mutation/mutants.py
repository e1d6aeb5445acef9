"""Mutants of the arithmetic: every operator, comparison, constant and branch of a module changed, one at a time, and
the tests run on each. A mutant that no test tells from the code is a gap in the tests, or provably the same program.

    python tests/mutation/mutants.py [clips] [guidance] [schedule] [sampler]

Each mutant is a fork of one process that has the heavy packages loaded, so that none waits for their import.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import importlib.abc
import importlib.util
import io
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGE = "hallo3_core"
TESTS = {  # the quickest to tell first
    "clips": ("tests/test_clips.py",),
    "sampling.guidance": ("tests/test_guidance.py",),
    "sampling.schedule": ("tests/test_sampler.py", "tests/parity/test_sampler.py"),
    "sampling.sampler": ("tests/test_sampler.py", "tests/parity/test_sampler.py"),
}
OPTIONS = ("-x", "-q", "--tb=no", "--assert=plain", "--hypothesis-profile=mutants")
ENDLESS = 120  # processor seconds of a mutant, after which it counts as found: it does not end

COMPARISONS = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
OPERATIONS = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div, ast.Add),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult, ast.Div),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
}


class Mutant(NamedTuple):
    """One change: where, what stood there, what stands there now, and the module as a whole."""

    place: str
    before: str
    after: str
    tree: ast.Module

    def __str__(self) -> str:
        return f"{self.place}: {self.before} -> {self.after}"


def mutants(source: str) -> Iterator[Mutant]:
    """Every mutant of a module; annotations, texts and messages are left alone."""
    tree = ast.parse(source)
    for path, place in _nodes(tree, (), "module"):
        node = _at(tree, path)
        for changed in _changes(node):
            mutated = copy.deepcopy(tree)
            parent, (field, index) = _at(mutated, path[:-1]), path[-1]
            if index is None:
                setattr(parent, field, changed)
            else:
                getattr(parent, field)[index] = changed
            yield Mutant(place, ast.unparse(node), ast.unparse(changed), ast.fix_missing_locations(mutated))


def _nodes(node: ast.AST, path: tuple, place: str) -> Iterator[tuple[tuple, str]]:
    """Paths to all nodes that may be changed, and the function each lies in."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        place = f"{place}.{node.name}" if place != "module" else node.name
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "keywords") and not isinstance(node, ast.Call):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else ((None, value),):
            if not isinstance(child, ast.AST) or _is_text(child):
                continue
            yield (*path, (field, index)), place
            yield from _nodes(child, (*path, (field, index)), place)


def _is_text(node: ast.AST) -> bool:
    """Docstrings, messages, imports, and names of types."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if isinstance(node, ast.JoinedStr | ast.Import | ast.ImportFrom):
        return True
    return isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript)  # a name for a type


def _at(node: ast.AST, path: tuple) -> ast.AST:
    for field, index in path:
        value = getattr(node, field)
        node = value if index is None else value[index]
    return node


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(left, ops, comparators):
            for i, operator in enumerate(ops):
                for other in COMPARISONS.get(type(operator), ()):
                    yield ast.Compare(left, [*ops[:i], other(), *ops[i + 1 :]], comparators)
        case ast.BinOp(left, operator, right):
            yield from (ast.BinOp(left, other(), right) for other in OPERATIONS.get(type(operator), ()))
        case ast.UnaryOp(ast.USub() | ast.Not(), operand):
            yield operand
        case ast.BoolOp(operator, values):
            yield ast.BoolOp(ast.And() if isinstance(operator, ast.Or) else ast.Or(), values)
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() as value):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.Constant(float() as value):
            yield from (ast.Constant(value + 1.0), ast.Constant(value * 1.1 if value else -0.1))
        case ast.IfExp(_, body, orelse):
            yield from (body, orelse)
        case ast.If(_, body, orelse):
            yield ast.If(ast.Constant(True), body, orelse)
            yield ast.If(ast.Constant(False), body, orelse)
        case ast.Raise() | ast.Expr(ast.Call()):
            yield ast.Pass()
        case ast.Return(ast.expr()):
            yield ast.Return(ast.Constant(None))
        case ast.Call(ast.Name("min"), arguments, keywords):
            yield ast.Call(ast.Name("max", ast.Load()), arguments, keywords)
        case ast.Call(ast.Name("max"), arguments, keywords):
            yield ast.Call(ast.Name("min", ast.Load()), arguments, keywords)


class Swap(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module of the package in its mutated form, whoever imports it."""

    def __init__(self, name: str, mutant: Mutant):
        self.name, self.mutant = name, mutant

    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_loader(name, self) if name == self.name else None

    def exec_module(self, module) -> None:
        module.__file__ = "mutant"
        exec(compile(self.mutant.tree, "mutant", "exec"), module.__dict__)  # noqa: S102 - our own code, changed


def survives(module: str, mutant: Mutant) -> bool:
    """Whether the module's tests pass on the mutant, in a fork."""
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        signal.setitimer(signal.ITIMER_PROF, ENDLESS)  # SIGPROF ends the process
        code = 1
        try:
            import pytest

            sys.meta_path.insert(0, Swap(f"{PACKAGE}.{module}", mutant))
            code = pytest.main([*OPTIONS, *TESTS[module]])
        finally:
            os._exit(int(code))
    _, status = os.waitpid(child, 0)
    return status == 0


def check(module: str, same: dict[str, str]) -> tuple[int, list[str], list[str]]:
    """All mutants of a module: how many, those that no test finds, and those of `same` that are found after all."""
    source = (ROOT / PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    count, alive, found = 0, [], set()
    for mutant in mutants(source):
        count += 1
        if survives(module, mutant):
            (found.add if str(mutant) in same else alive.append)(str(mutant))
            sys.stdout.write("" if str(mutant) in same else f"{module}, alive: {mutant}\n")
            sys.stdout.flush()
    return count, alive, sorted(same.keys() - found)


def prepare(modules: list[str]) -> None:
    """Load what every mutant needs, by one run of the tests on the code as it is, and forget what is ours.

    Raises:
        RuntimeError: the tests fail on the code as it is.
    """
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    import pytest
    import torch

    torch.set_num_threads(1)  # other threads would not be there in a fork
    before = set(sys.modules)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if pytest.main([*OPTIONS, *{path for module in modules for path in TESTS[module]}]):
            raise RuntimeError("the tests fail on the code as it is")
    for name in set(sys.modules) - before:
        if name.startswith((PACKAGE, "tests", "test_", "conftest", "parity")):
            del sys.modules[name]


def main(modules: list[str]) -> int:
    from same import SAME

    failed = False
    for module in modules:
        count, alive, wrong = check(module, SAME.get(module, {}))
        same = len(SAME.get(module, {}))
        sys.stdout.write(f"{module}: {count} mutants, {same} the same program, {len(alive)} alive\n")
        sys.stdout.writelines(f"  listed as the same, but found or gone: {mutant}\n" for mutant in wrong)
        sys.stdout.flush()
        failed |= bool(alive or wrong)
    return int(failed)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    chosen = sys.argv[1:] or list(TESTS)
    prepare(chosen)
    sys.exit(main(chosen))
