"""Measure the size and style of the code, of the working tree and of earlier commits side by side.

In:  the repository. Out: a Markdown table; with --list also what is behind the numbers of the working tree.

    python scripts/dev/measure_style.py --at 58122d5 --list

How it is counted. Lines, functions, comments, docstrings and type names are those of the Python files below src/.
A function's length is from its ``def`` to its last line. Comments that only switch a checker (noqa, type, fmt) do not
count. A type name is a public class or type alias at the top level of a module. An implementation of a Protocol is a
class that has all its public members. Row types are the record types (dataclass, NamedTuple, TypedDict) below
src/generation and src/inference that have a field for one row (ROW_FIELDS), and the aliases named Row or Record.
Files from entry to work: references are followed from the entry file, definition by definition (a top-level function,
or a class with all its methods, refers to what its body names), until a definition matches the command's pattern in
WORK. The first number counts the files on the shortest such chain, both ends included; the second all files of src/
with definitions that can be reached at all. Recipes and encoders, found by name at run time, are not followed.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tarfile
import tempfile
import tokenize
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROW_FIELDS = {"key", "row", "request", "result", "token_ids"}
PRAGMA = re.compile(r"#\s*(noqa|type:|fmt:|pragma)[^-]*")
WORK = {
    "ask": ("ask.py", r"\.generate\(|add_request\("),
    "generate": ("generate_vllm.py", r"add_request\("),
    "train": ("train.py", r"trainer\.train\("),
    "collect": ("scripts/alarm/collect.py", r"ArrowWriter\(|\.save_to_disk\(|from_generator\("),
    "evaluate": ("scripts/benchmarks/evaluation/mmau.py", r"def score_rows\("),
}
"""Entry file of each command, and a pattern of the definition that does its work."""
Definition = tuple[str, str]
"""File and name of a top-level function, class or constant; the name of the entry file's own code is ``""``."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at", nargs="*", default=[], metavar="COMMIT", help="columns for earlier commits")
    parser.add_argument("--list", action="store_true", help="also list names, docstrings, Protocols and paths")
    args = parser.parse_args()
    columns = []
    for commit in args.at:
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
        if archive.returncode:
            sys.exit(f"error: --at {commit}: {archive.stderr.decode().strip()}")
        with tempfile.TemporaryDirectory() as folder:
            with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
                tar.extractall(folder, filter="data")
            columns.append((commit, Code(Path(folder)).table()))
    now = Code(ROOT)
    columns.append(("now", now.table()))
    print("| measure |" + "".join(f" {name} |" for name, _ in columns))
    print("| --- |" + " ---: |" * len(columns))
    for measure in columns[-1][1]:
        print(f"| {measure} |" + "".join(f" {table[measure]} |" for _, table in columns))
    if args.list:
        print("\n" + "\n".join(now.details()))
    return 0


@dataclass(frozen=True)
class Code:
    """The Python code of one state of the repository, below ``root``."""

    root: Path

    @cached_property
    def files(self) -> dict[str, str]:
        """Texts of the files below src/ by path."""
        paths = sorted((self.root / "src").rglob("*.py"))
        return {path.relative_to(self.root).as_posix(): path.read_text(encoding="utf-8") for path in paths}

    @cached_property
    def trees(self) -> dict[str, ast.Module]:
        """The files' syntax trees by path."""
        return {name: ast.parse(text) for name, text in self.files.items()}

    def table(self) -> dict[str, str]:
        """All measures by name."""
        lines = {name: len(text.splitlines()) for name, text in self.files.items()}
        total = sum(lines.values())
        functions = sorted(
            (node.end_lineno or node.lineno) - node.lineno + 1
            for node in self._nodes()
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        )
        comments = [comment for text in self.files.values() for comment in comments_of(text)]
        types = defined_types([self.root / name for name in self.files])
        twice = self.twice
        protocols = self.protocols
        found = {
            "files of src/": f"{len(lines)}",
            "of them under 60 lines": f"{sum(count < 60 for count in lines.values()) / len(lines):.0%}",
            "lines of src/": f"{total:,}",
            "lines of examples/, scripts/, tests/": ", ".join(
                f"{sum(len(path.read_text().splitlines()) for path in (self.root / folder).rglob('*.py')):,}"
                for folder in ("examples", "scripts", "tests")
            ),
            "functions": f"{len(functions):,}",
            "function length, median and p90": f"{_quantile(functions, 0.5)}, {_quantile(functions, 0.9)}",
            "comments per 100 lines": f"{100 * len(comments) / total:.1f}",
            "comments with a link": f"{sum('://' in comment for comment in comments)}",
            'docstrings that begin with "What"': f"{sum(self.what.values())}",
            "type names used for two types": f"{len(twice)} of {len(types)} ({len(twice) / len(types):.1%})",
            "Protocols": f"{len(protocols)}",
            "Protocols with one implementation or none": f"{sum(count < 2 for count in protocols.values())}",
            "row types on the generation path": f"{len(self.row_types)}",
        }
        for command, (entry, _) in WORK.items():
            path, reached = self.to_work(command)
            found[f"files from {entry} to work / reachable"] = f"{len(path) or '?'} / {reached}"
        return found

    def details(self) -> Iterator[str]:
        """Lines that say what is behind the numbers."""
        yield "Type names used for two types:"
        yield from (f"  {name}: {', '.join(files)}" for name, files in sorted(self.twice.items()))
        yield 'Docstrings that begin with "What":'
        yield from (f"  {name}: {count}" for name, count in self.what.items() if count)
        yield "Protocols and numbers of their implementations:"
        yield from (f"  {name}: {count}" for name, count in sorted(self.protocols.items()))
        yield f"Row types: {', '.join(self.row_types)}"
        yield from (f"{command}: {' -> '.join(self.to_work(command)[0])}" for command in WORK)

    def _nodes(self) -> Iterator[ast.AST]:
        return (node for tree in self.trees.values() for node in ast.walk(tree))

    @property
    def what(self) -> dict[str, int]:
        """By file, docstrings that begin with "What" or "Whatever"."""
        return {name: sum(text.startswith("What") for text in docstrings(tree)) for name, tree in self.trees.items()}

    @property
    def twice(self) -> dict[str, list[str]]:
        """Type names with the files that define them, where these are several."""
        types = defined_types([self.root / name for name in self.files])
        return {
            name: [path.relative_to(self.root).as_posix() for path in paths]
            for name, paths in types.items()
            if len(paths) > 1
        }

    @property
    def protocols(self) -> dict[str, int]:
        """Protocols by ``file:name``, with the number of classes that have all their members."""
        bodies = [(name, node) for name, tree in self.trees.items() for node in tree.body]
        classes = [(name, node) for name, node in bodies if isinstance(node, ast.ClassDef)]
        members = {f"{name}:{node.name}": _members(node) for name, node in classes}
        own = {f"{name}:{node.name}" for name, node in classes if "Protocol" in _base_names(node)}
        return {
            protocol: sum(members[protocol] <= found for name, found in members.items() if name not in own)
            for protocol in own
        }

    @property
    def row_types(self) -> list[str]:
        """Names of the types that stand for one row between its table and its record."""
        found = []
        for name, tree in self.trees.items():
            if not name.startswith(("src/generation/", "src/inference/")):
                continue
            for node in tree.body:
                if isinstance(node, ast.ClassDef):
                    decorators = {ast.unparse(each).partition("(")[0] for each in node.decorator_list}
                    record = "dataclass" in decorators or {"NamedTuple", "TypedDict"} & _base_names(node)
                    if record and _members(node) & ROW_FIELDS:
                        found.append(node.name)
                elif (alias := _alias(node)) and alias.removesuffix("s") in ("Row", "Record"):
                    found.append(alias)
        return sorted(found)

    def to_work(self, command: str) -> tuple[list[str], int]:
        """Files on the shortest chain of references from a command's entry to its work; files reached at all."""
        entry, pattern = WORK[command]
        if not (self.root / entry).exists():
            return [], 0
        before: dict[Definition, Definition | None] = {(entry, ""): None}
        queue, chain = deque(before), list[str]()
        while queue:
            here: Definition | None = queue.popleft()
            assert here is not None
            references = self._references(*here)
            if not chain and here[1] and re.search(pattern, self._source(*here)):
                while here is not None:
                    chain.insert(0, here[0])
                    here = before[here]
                continue
            for target in references:
                if target not in before:
                    before[target] = (here[0], here[1]) if here else None
                    queue.append(target)
        return list(dict.fromkeys(chain)), len({file for file, _ in before if file in self.files})

    def _source(self, file: str, name: str) -> str:
        node = self._definitions(file).get(name)
        return (ast.get_source_segment(self.files[file], node) or "") if node else ""

    @cached_property
    def _top_level(self) -> dict[str, dict[str, ast.stmt]]:
        """By file of src/: top-level functions, classes and assigned names."""
        found: dict[str, dict[str, ast.stmt]] = {}
        for file, tree in self.trees.items():
            names = found.setdefault(file, {})
            for node in tree.body:
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                    names[node.name] = node
                elif isinstance(node, ast.Assign):
                    names |= {target.id: node for target in node.targets if isinstance(target, ast.Name)}
        return found

    def _definitions(self, file: str) -> dict[str, ast.stmt]:
        return self._top_level.get(file, {})

    @cached_property
    def _known(self) -> dict[str, tuple[dict[str, Definition], dict[str, str]]]:
        return {}

    def _names(self, file: str, tree: ast.Module) -> tuple[dict[str, Definition], dict[str, str]]:
        """Definitions of src/ and modules of src/ by their names in a file."""
        if file in self._known:
            return self._known[file]
        definitions: dict[str, Definition] = {each: (file, each) for each in self._definitions(file)}
        modules: dict[str, str] = {}
        for each in ast.walk(tree):
            if not isinstance(each, ast.ImportFrom) or not each.module or each.module.split(".")[0] != "src":
                continue
            base = each.module.replace(".", "/")
            for alias in each.names:
                if f"{base}/{alias.name}.py" in self.files:
                    modules[alias.asname or alias.name] = f"{base}/{alias.name}.py"
                else:
                    source = f"{base}.py" if f"{base}.py" in self.files else f"{base}/__init__.py"
                    definitions[alias.asname or alias.name] = self._origin(source, alias.name)
        self._known[file] = definitions, modules
        return self._known[file]

    def _references(self, file: str, name: str) -> list[Definition]:
        """Definitions of src/ that a definition names, in its own file or by an import; all of an entry file's."""
        tree = self.trees.get(file) or ast.parse((self.root / file).read_text(encoding="utf-8"))
        node: ast.AST = self._definitions(file)[name] if name else tree
        definitions, modules = self._names(file, tree)
        found = []
        for each in ast.walk(node):
            if isinstance(each, ast.Name) and each.id in definitions:
                found.append(definitions[each.id])
            elif isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name) and each.value.id in modules:
                found.append((modules[each.value.id], each.attr))
        return [target for target in dict.fromkeys(found) if target[1] in self._definitions(target[0])]

    def _origin(self, file: str, name: str) -> Definition:
        """Where a name that a file offers is defined, behind one re-export."""
        if name not in self._definitions(file) and file in self.trees:
            for node in self.trees[file].body:
                if isinstance(node, ast.ImportFrom) and node.module and name in {alias.name for alias in node.names}:
                    return f"{node.module.replace('.', '/')}.py", name
        return file, name


def defined_types(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Public classes and type aliases at the top level of modules, with the files that define them."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            name = node.name if isinstance(node, ast.ClassDef) else _alias(node)
            if name and not name.startswith("_"):
                found[name].append(path)
    return dict(found)


def docstrings(tree: ast.AST) -> Iterator[str]:
    """Docstrings of a module, its classes and functions, and string literals that document an assignment."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value.lstrip()


def comments_of(text: str) -> Iterator[str]:
    """Comments of a file that say something to a reader."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and PRAGMA.sub("", token.string).strip("# -"):
            yield token.string


def _alias(node: ast.stmt) -> str | None:
    """Name of a type alias such as ``Rows = list[dict[str, Any]]``."""
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        name, value = node.targets[0].id, node.value
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
        name, value = node.target.id, node.value
        if "TypeAlias" not in ast.unparse(node.annotation):
            return None
    else:
        return None
    is_type = isinstance(value, ast.Subscript) or (isinstance(value, ast.BinOp) and isinstance(value.op, ast.BitOr))
    return name if is_type and re.fullmatch(r"[A-Z]\w*[a-z]\w*", name) else None


def _base_names(node: ast.ClassDef) -> set[str]:
    return {ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases}


def _members(node: ast.ClassDef) -> set[str]:
    """Public methods and attributes of a class, also those that ``__init__`` assigns."""
    found = set()
    for each in node.body:
        if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.add(each.name)
            named = (n for n in ast.walk(each) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store))
            found |= {n.attr for n in named if isinstance(n.value, ast.Name) and n.value.id == "self"}
        elif isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            found.add(each.target.id)
    return {name for name in found if not name.startswith("_") or name == "__call__"}


def _quantile(values: Sequence[int], share: float) -> int:
    return values[min(len(values) - 1, int(share * len(values)))]


if __name__ == "__main__":
    raise SystemExit(main())
