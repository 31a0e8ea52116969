"""Texts in Python source, read from its syntax tree; nothing of the source is ever run.

Enough of the language is understood to follow how a function puts a prompt together: literals, f-strings, ``+`` and
``+=``, ``replace``, ``join``, loops over literal lists (worked out) and over an argument (kept as a repeated part).
A text that depends on anything else is unreadable, with the line as the reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any


class UnreadableSource(Exception):
    """A text that cannot be followed, with the reason."""


@dataclass(frozen=True)
class SourceField:
    """A place that is filled when the source runs: an argument's name or an expression as written.

    ``changes`` are the literal ``replace`` calls that it goes through first.
    """

    name: str
    changes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Repeated:
    """A part that is written for every item of an argument, ``separator`` between two."""

    body: tuple[SourcePart, ...]
    separator: str = ""


SourcePart = str | SourceField | Repeated
"""A piece of a text."""


@dataclass(frozen=True)
class SourceText:
    """A text with fields, in order; no two neighbours are both ``str``."""

    parts: tuple[SourcePart, ...] = ()

    def __add__(self, other: SourceText) -> SourceText:
        if self.parts and other.parts:
            last, first = self.parts[-1], other.parts[0]
            if isinstance(last, str) and isinstance(first, str):
                return SourceText((*self.parts[:-1], last + first, *other.parts[1:]))
        return SourceText((*self.parts, *other.parts))

    @property
    def literal(self) -> str | None:
        """The text itself if it has no fields."""
        if not self.parts:
            return ""
        only = self.parts[0]
        return only if len(self.parts) == 1 and isinstance(only, str) else None

    @property
    def fields(self) -> list[str]:
        """Names of its fields, in order."""
        return [part.name for part in self.parts if isinstance(part, SourceField)]

    def replaced(self, old: str, new: str) -> SourceText:
        """As ``str.replace`` does, noted at fields."""
        parts: list[SourcePart] = []
        for part in self.parts:
            if isinstance(part, Repeated):
                raise UnreadableSource("replace on a repeated part")
            if isinstance(part, str):
                parts.append(part.replace(old, new))
            else:
                parts.append(replace(part, changes=(*part.changes, (old, new))))
        return SourceText(tuple(part for part in parts if part != ""))


Value = Any
"""A :class:`SourceText`, an int, a list of values, or an :class:`UnreadableSource` that is raised when it is used."""


def returned_text(module: ast.Module, function: ast.FunctionDef, arguments: Sequence[str]) -> SourceText:
    """Text that a function returns, with fields named ``arguments`` in place of its own arguments, in order.

    Constants of the module are known. Raises :class:`UnreadableSource`.
    """
    own = [argument.arg for argument in function.args.args]
    if len(own) != len(arguments):
        raise UnreadableSource(f"{function.name} has {len(own)} arguments, expected {len(arguments)}")
    names: dict[str, Value] = {}
    _run([node for node in module.body if isinstance(node, (ast.Assign, ast.AnnAssign))], names)
    names |= {name: SourceText((SourceField(called),)) for name, called in zip(own, arguments, strict=True)}
    returned = _run(function.body, names)
    if not isinstance(returned, SourceText):
        raise UnreadableSource(f"{function.name} returns no text that can be followed")
    return returned


def texts_within(node: ast.AST) -> Iterator[SourceText]:
    """Every text below a node that is as long as it can be followed, but those that are only compared with."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Compare):
            continue
        if isinstance(child, (ast.Constant, ast.JoinedStr, ast.BinOp)):
            try:
                value = _evaluate(child, {})
            except UnreadableSource:
                value = None
            if isinstance(value, SourceText):
                yield value
                continue
        yield from texts_within(child)


def _run(body: Sequence[ast.stmt], names: dict[str, Value]) -> Value:
    """Follow statements; ``names`` is changed. Returns what the first ``return`` gives, else None."""
    for statement in body:
        match statement:
            case ast.Return(value=ast.expr() as value):
                return _evaluate(value, names)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                names[name] = _kept(value, names)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                names[name] = _kept(value, names)
            case ast.AugAssign(target=ast.Name(id=name), op=ast.Add(), value=value):
                names[name] = _kept(ast.BinOp(ast.Name(name, ast.Load()), ast.Add(), value), names, statement.lineno)
            case ast.For():
                _loop(statement, names)
            case ast.Expr() | ast.Pass():
                pass
            case _:
                why = UnreadableSource(f"line {statement.lineno}: {type(statement).__name__.lower()} is not followed")
                names.update(dict.fromkeys(_assigned(statement), why))
                if any(isinstance(node, ast.Return) for node in ast.walk(statement)):
                    raise why
    return None


def _assigned(statement: ast.stmt) -> list[str]:
    return [node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]


def _kept(node: ast.expr, names: Mapping[str, Value], line: int | None = None) -> Value:
    """A value, or why there is none: it matters only where it is used."""
    try:
        return _evaluate(node, names)
    except UnreadableSource as error:
        return UnreadableSource(f"line {line}: {error}") if line else error


def _iterated(node: ast.expr) -> tuple[ast.expr, bool]:
    """The expression that a loop goes over, and whether ``enumerate`` counts its items (from 0)."""
    match node:
        case ast.Call(func=ast.Name(id="enumerate"), args=[inner], keywords=[]):
            return inner, True
    return node, False


def _any_item(items: Value, counted: bool) -> Value:
    """Fields in place of an argument's items, with their number if ``counted``; None if ``items`` is no argument."""
    if not (isinstance(items, SourceText) and len(items.fields) == len(items.parts) == 1):
        return None
    item = SourceText((SourceField("item"),))
    return [SourceText((SourceField("number"),)), item] if counted else item


def _loop(statement: ast.For, names: dict[str, Value]) -> None:
    iterated, counted = _iterated(statement.iter)
    items = _kept(iterated, names)
    if isinstance(items, list):
        for number, item in enumerate(items):
            _bind(statement.target, [number, item] if counted else item, names)
            _run(statement.body, names)
        return
    item = _any_item(items, counted)
    if item is None:
        why = UnreadableSource(f"line {statement.lineno}: a loop over {ast.unparse(statement.iter)} is not followed")
        names.update(dict.fromkeys(_assigned(statement), why))
        return
    before = dict(names)
    _bind(statement.target, item, names)
    _run(statement.body, names)
    for name, old in before.items():
        new = names[name]
        if new is old:
            continue
        if isinstance(new, SourceText) and isinstance(old, SourceText):
            names[name] = old + SourceText((Repeated(_appended(old, new, statement)),))
        else:
            names[name] = UnreadableSource(f"line {statement.lineno}: {name} changes in a loop that is not followed")


def _appended(old: SourceText, new: SourceText, statement: ast.For) -> tuple[SourcePart, ...]:
    """Text that one turn of a loop appends to ``old``."""
    # neighbouring texts are one part: what is appended may be the end of the last part of ``old``
    if old.literal == "":
        return new.parts
    shared = len(old.parts)
    if new.parts[:shared] == old.parts:
        return new.parts[shared:]
    last, grown = old.parts[-1], new.parts[shared - 1] if len(new.parts) >= shared else None
    same = new.parts[: shared - 1] == old.parts[:-1] and isinstance(last, str) and isinstance(grown, str)
    if same and str(grown).startswith(str(last)):
        return (str(grown).removeprefix(str(last)), *new.parts[shared:])
    raise UnreadableSource(f"line {statement.lineno}: a loop that does more than append is not followed")


def _bind(target: ast.expr, value: Value, names: dict[str, Value]) -> None:
    match target:
        case ast.Name(id=name):
            names[name] = value
        case ast.Tuple(elts=targets) if isinstance(value, list) and len(targets) == len(value):
            for each, part in zip(targets, value, strict=True):
                _bind(each, part, names)
        case _:
            raise UnreadableSource(f"line {target.lineno}: {ast.unparse(target)} cannot be bound")


def _evaluate(node: ast.expr, names: Mapping[str, Value]) -> Value:
    match node:
        case ast.Constant(value=str() as text):
            return SourceText((text,) if text else ())
        case ast.Constant(value=int() as number):
            return number
        case ast.Name(id=name) if name in names:
            found = names[name]
            if isinstance(found, UnreadableSource):
                raise found
            return found
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_evaluate(item, names) for item in items]
        case ast.JoinedStr(values=values):
            return sum((_in_f_string(value, names) for value in values), SourceText())
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            first, second = _evaluate(left, names), _evaluate(right, names)
            if isinstance(first, SourceText) and isinstance(second, SourceText):
                return first + second
            if isinstance(first, int) and isinstance(second, int):
                return first + second
        case ast.Call(func=ast.Name(id="str"), args=[value], keywords=[]):
            return _as_text(_evaluate(value, names))
        case ast.Call(func=ast.Attribute(value=value, attr="replace"), args=[old, new], keywords=[]):
            literals = [_evaluate(each, names) for each in (old, new)]
            text = _evaluate(value, names)
            if isinstance(text, SourceText) and all(isinstance(each, SourceText) for each in literals):
                before, after = (each.literal for each in literals)
                if before is not None and after is not None:
                    return text.replaced(before, after)
        case ast.Call(
            func=ast.Attribute(value=value, attr="join"), args=[ast.GeneratorExp() | ast.ListComp() as made]
        ):
            return _joined(_evaluate(value, names), made, names)
    raise UnreadableSource(f"line {getattr(node, 'lineno', '?')}: {ast.unparse(node)[:60]} is not followed")


def _as_text(value: Value) -> SourceText:
    if isinstance(value, SourceText):
        return value
    if type(value) is int:
        return SourceText((str(value),))
    raise UnreadableSource(f"{type(value).__name__} in a text")


def _in_f_string(node: ast.expr, names: Mapping[str, Value]) -> SourceText:
    """A part of an f-string; an expression that is not understood becomes a field as it is written."""
    if not isinstance(node, ast.FormattedValue):
        return _as_text(_evaluate(node, names))
    written = ast.unparse(node.value)
    if node.conversion != -1 or node.format_spec is not None:
        raise UnreadableSource(f"line {node.lineno}: {{{written}}} with a format is not followed")
    try:
        return _as_text(_evaluate(node.value, names))
    except UnreadableSource:
        if isinstance(node.value, ast.Name) and node.value.id in names:  # known, and not a text that can be followed
            raise
        return SourceText((SourceField(written),))


def _joined(separator: Value, made: ast.GeneratorExp | ast.ListComp, names: Mapping[str, Value]) -> SourceText:
    if not isinstance(separator, SourceText) or separator.literal is None or len(made.generators) != 1:
        raise UnreadableSource(f"line {made.lineno}: join is not followed")
    generator, inner = made.generators[0], dict(names)
    iterated, counted = _iterated(generator.iter)
    item = _any_item(_evaluate(iterated, names), counted)
    if generator.ifs or item is None:
        raise UnreadableSource(f"line {made.lineno}: join over {ast.unparse(generator.iter)} is not followed")
    _bind(generator.target, item, inner)
    return SourceText((Repeated(_as_text(_evaluate(made.elt, inner)).parts, separator.literal),))
