# SPDX-License-Identifier: Apache-2.0
"""YAML (and JSON) text → plain values that remember their lines.

Built on libyaml's event stream rather than on PyYAML's composer, which recurses in C and can be made to overflow the
stack. Every limit is checked while events arrive, before anything grows. Scalars follow what Kubernetes' own YAML
reader makes of them: `10:20` is a string, `on` is a boolean.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from rules.policy.errors import ResourceError
from rules.policy.wording import what

MAX_BYTES = 16 << 20
MAX_DEPTH = 64
MAX_ALIASED_VALUES = 100_000  # values that aliases may stand for in one document, all repetitions counted
MAX_ALIASED_IN_FILE = 1_000_000  # the same, of all documents of a file
MAX_DOCUMENTS = 300_000  # more than resources can be in a file, however short they are
TOO_LARGE = f"file is larger than {MAX_BYTES >> 20} MiB"
TOO_MANY = f"more than {MAX_DOCUMENTS:,} documents in a file; the rest is not read"

_MARKER = re.compile(r"^---(?=[ \t\r\n]|\Z)", re.MULTILINE)
_SECOND_MARK = re.compile(r"(---[ \t]*\r?\n)\ufeff")  # two files were put together, each with its byte order mark
_CONTENT = re.compile(r"^(?![ \t]*(?:#|\r?$)|%|\.\.\.[ \t]*\r?$).", re.MULTILINE)
_NO_TEXT = re.compile("[\ud800-\udfff]")  # bytes that are not UTF-8, decoded with surrogateescape, become such
_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # libyaml's
_NO_BREAK = "\x85\u2028\u2029"  # for everybody else
_SURROGATES = re.compile(r"((?<!\\)(?:\\\\)*)(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})")
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0o?_*[0-7][0-7_]*|0x_*[0-9a-fA-F][0-9a-fA-F_]*|0b_*[01][01_]*)\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_WORDS: dict[str, Any] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
for _word, _value in (("true", True), ("yes", True), ("on", True), ("false", False), ("no", False), ("off", False)):
    _WORDS.update({_word: _value, _word.capitalize(): _value, _word.upper(): _value})


class Map(dict[str, Any]):
    """A mapping that knows its own line and its keys' lines."""

    __slots__ = ("line", "lines", "size")

    def __init__(self, line: int) -> None:
        self.line = line
        self.lines: dict[str, int] = {}
        self.size = 1


class Seq(list[Any]):
    """A sequence that knows its items' lines."""

    __slots__ = ("line", "lines", "size")

    def __init__(self, line: int) -> None:
        self.line = line
        self.lines: list[int] = []
        self.size = 1


@dataclass(frozen=True, slots=True)
class Document:
    value: Any
    line: int
    index: int


def line_of(value: Any, path: tuple[str | int, ...], fallback: int | None = None) -> int | None:
    """The line of the value at `path`, or of the deepest part of the path that exists."""
    line = getattr(value, "line", fallback)
    for part in path:
        if isinstance(value, Map) and part in value:
            line, value = value.lines.get(str(part), line), value[str(part)]
        elif isinstance(value, Seq) and isinstance(part, int) and part < len(value):
            line, value = value.lines[part], value[part]
        else:
            break
    return line


def split(text: str) -> Iterator[tuple[int, str]]:
    """(lines before it, text) of each document: a broken one must not hide those behind it."""
    starts = [0, *(found.start() for found in _MARKER.finditer(text) if found.start())]
    line = 0
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        piece = text[start:end]
        if _CONTENT.search(piece[3:] if piece.startswith("---") else piece):
            yield line, piece
        line += piece.count("\n")


def read_documents(text: str, file: str) -> tuple[list[Document], list[ResourceError]]:
    """All documents that are YAML, and an error for each that is not. Pure; raises nothing."""
    size = len(text)
    if size <= MAX_BYTES and not text.isascii():
        size = len(text.encode("utf-8", "replace"))
    if size > MAX_BYTES:
        return [], [ResourceError(TOO_LARGE, file=file, line=1)]
    documents: list[Document] = []
    errors: list[ResourceError] = []
    budget = _Budget()
    for index, (before, piece) in enumerate(split(text)):
        if index == MAX_DOCUMENTS:
            errors.append(ResourceError(TOO_MANY, file=file, line=before + 1, document=index))
            break
        lines = _lines(piece, before + 1)
        try:
            broken = _NO_TEXT.search(piece)
            if broken is not None:
                raise _Refused("not UTF-8", before + 1 + piece.count("\n", 0, broken.start()))
            for value, line in _read(_joined(_SECOND_MARK.sub(r"\1", piece, count=1)), lines, budget):
                documents.append(Document(value, line, index))
        except _Refused as error:
            errors.append(ResourceError(error.message, file=file, line=error.line, document=index))
        except yaml.YAMLError as error:
            line = lines[_lines_before(error, piece)]
            errors.append(ResourceError(f"invalid YAML: {_why(error)}", file=file, line=line, document=index))
    return documents, errors


def _lines(piece: str, first: int) -> Sequence[int]:
    """The line of the file, for each line of the piece that libyaml counts."""
    if piece.isascii() or not any(sign in piece for sign in _NO_BREAK):
        return range(first, first + len(piece) + 2)
    lines = [first]
    for found in _BREAK.finditer(piece):
        lines.append(lines[-1] + (found.group() not in _NO_BREAK))
    return [*lines, lines[-1]]


def _why(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    if problem == "did not find expected <document start>":
        problem = "something follows the document, not set apart by a line ---"
    context = getattr(error, "context", None)
    return f"{context}: {problem}" if context else str(problem)


def _lines_before(error: yaml.YAMLError, piece: str) -> int:
    mark = getattr(error, "problem_mark", None)
    if mark is not None:  # what is not closed is missed at the next document's first line
        return min(int(mark.line), len(_BREAK.findall(piece.rstrip())))
    position = getattr(error, "position", None)  # a byte's
    return len(_BREAK.findall(piece.encode()[:position].decode(errors="ignore"))) if isinstance(position, int) else 0


class _Budget:
    """Of the aliases of a whole file."""

    def __init__(self) -> None:
        self.aliased = 0


class _Refused(Exception):
    def __init__(self, message: str, line: int) -> None:
        self.message = message
        self.line = line


def _scalar(event: Any, line: int) -> Any:
    value: str = event.value
    tag = event.tag
    if tag is not None and tag not in ("!", "tag:yaml.org,2002:str"):
        short = tag.removeprefix("tag:yaml.org,2002:")
        if short not in ("int", "float", "bool", "null"):
            raise _Refused(f"tag {what(tag)} is not supported", line)
    elif tag is not None or not event.implicit[0]:
        return value
    if value in _WORDS:
        return _WORDS[value]
    first = value[0]
    if first.isdigit() or first in "+-.":
        if _INTEGER.match(value) and len(value) < 64:
            digits = value.replace("_", "")
            if len(digits.lstrip("+-0")) and digits.lstrip("+-")[0] == "0" and digits.lstrip("+-")[1:].isdigit():
                return int(digits, 8)
            return int(digits, 0)
        if _FLOAT.match(value) and len(value) < 64:
            return float(value.replace("_", ""))
    return value


def _joined(text: str) -> str:
    """JSON writes what is beyond 16 bits as two escapes, which YAML does not know."""
    if not text.lstrip().startswith(("{", "[")):
        return text
    return _SURROGATES.sub(lambda found: found.group(1) + json.loads(f'"{found.group(2)}"'), text)


def _merge(value: Map) -> None:
    """The merge key: a mapping or a list of them; own keys win, then those of the first."""
    sources = value["<<"] if isinstance(value["<<"], Seq) else [value["<<"]]
    if not all(isinstance(source, Map) for source in sources):
        return  # an unknown field to whoever reads it
    line = value.lines.pop("<<")
    del value["<<"]
    for source in sources:
        for key, item in source.items():
            value.setdefault(key, item)
            value.lines.setdefault(key, line)


def _read(text: str, lines: Sequence[int], budget: _Budget) -> Iterator[tuple[Any, int]]:
    """What stands in the text, and where. What comes behind a document is an error, not nothing."""
    loader = yaml.CSafeLoader(text)
    try:
        while True:
            value, line, ended = _build(loader, lines, budget)
            if value is not None:
                yield value, line
            if ended:
                return
    finally:
        loader.dispose()


def _build(loader: Any, lines: Sequence[int], budget: _Budget) -> tuple[Any, int, bool]:
    """(document, its line, whether nothing comes behind it)"""
    stack: list[Map | Seq] = []
    keys: list[tuple[str, int] | None] = []  # the key that waits for its value, for each open mapping
    anchors: dict[str, Any] = {}
    open_anchors: list[str | None] = []
    aliased = 0
    root: Any = None
    root_line = lines[0]
    while True:
        event = loader.get_event()
        sort = type(event)
        if sort is yaml.DocumentEndEvent:
            return root, root_line, False
        if event is None or sort is yaml.StreamEndEvent:
            return root, root_line, True
        if sort is yaml.StreamStartEvent or sort is yaml.DocumentStartEvent:
            continue
        line = lines[event.start_mark.line]
        value: Any
        if sort is yaml.ScalarEvent:
            value = _scalar(event, line)
            if event.anchor:
                anchors[event.anchor] = value
        elif sort is yaml.MappingStartEvent or sort is yaml.SequenceStartEvent:
            if len(stack) >= MAX_DEPTH:
                raise _Refused(f"nested more than {MAX_DEPTH} deep", line)
            if stack and isinstance(stack[-1], Map) and keys[-1] is None:
                raise _Refused("a key must be a string", line)
            if event.tag not in (None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
                raise _Refused(f"tag {what(event.tag)} is not supported", line)
            stack.append(Map(line) if sort is yaml.MappingStartEvent else Seq(line))
            keys.append(None)
            open_anchors.append(event.anchor)
            continue
        elif sort is yaml.AliasEvent:
            if event.anchor not in anchors:
                raise _Refused(f"alias {what(event.anchor)} has no anchor, or stands inside it", line)
            value = anchors[event.anchor]
            aliased += getattr(value, "size", 1)
            budget.aliased += getattr(value, "size", 1)
            if aliased > MAX_ALIASED_VALUES:
                raise _Refused(f"aliases stand for more than {MAX_ALIASED_VALUES:,} values", line)
            if budget.aliased > MAX_ALIASED_IN_FILE:
                raise _Refused(f"aliases stand for more than {MAX_ALIASED_IN_FILE:,} values in this file", line)
        else:  # the end of a mapping or a sequence
            value = stack.pop()
            if isinstance(value, Map) and "<<" in value:
                _merge(value)
            keys.pop()
            line = value.line
            anchor = open_anchors.pop()
            if anchor:
                anchors[anchor] = value
        if not stack:
            root, root_line = value, line
            continue
        parent = stack[-1]
        parent.size += getattr(value, "size", 1)
        if isinstance(parent, Seq):
            parent.append(value)
            parent.lines.append(line)
            continue
        key = keys[-1]
        if key is None:
            name = event.value if sort is yaml.ScalarEvent else value
            if not isinstance(name, str):
                raise _Refused("a key must be a string", line)
            if name in parent:
                raise _Refused(f"key {what(name)} stands twice (first on line {parent.lines[name]})", line)
            keys[-1] = (name, line)
            continue
        keys[-1] = None
        name, key_line = key
        parent[name] = value
        parent.lines[name] = key_line
