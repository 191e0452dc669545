# SPDX-License-Identifier: Apache-2.0
"""Paths on a command line → policy resources."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from fastpath.errors import PortcullisError
from rules.policy import LoadResult, load_documents
from rules.policy.documents import MAX_BYTES, TOO_LARGE

POLICY_SUFFIXES = (".yaml", ".yml", ".json")


class PathError(PortcullisError):
    """A path that cannot be read."""


def expand(paths: Iterable[Path], suffixes: tuple[str, ...]) -> Iterator[Path]:
    """Files as they are named, each once; of folders all files below with one of the suffixes, but nothing hidden.

    Raises PathError for what does not exist.
    """
    seen: set[Path] = set()
    for path in paths:
        if path.is_dir():
            below = (file for file in path.rglob("*") if file.suffix in suffixes and file.is_file())
            shown = (file for file in below if not any(part[0] == "." for part in file.relative_to(path).parts))
            files = sorted(shown)
        elif path.exists():
            files = [path]
        else:
            raise PathError("no such file or directory", file=str(path))
        for file in files:
            if file.resolve() not in seen:
                seen.add(file.resolve())
                yield file


def expand_each(paths: Iterable[Path], suffixes: tuple[str, ...]) -> tuple[list[Path], list[PathError]]:
    """The same, and an error for each path that does not exist instead of no files at all."""
    found: dict[Path, Path] = {}
    missing: list[PathError] = []
    for path in paths:
        try:
            for file in expand((path,), suffixes):
                found.setdefault(file.resolve(), file)
        except PathError as error:
            missing.append(error)
    return list(found.values()), missing


def read_policy(path: Path) -> str:
    """What is not UTF-8 is left to whoever reads the documents, so that it hides no other. Raises PathError."""
    return read_text(path, MAX_BYTES, "surrogateescape")


def read_text(path: Path, most: int | None = None, errors: str = "strict") -> str:
    """most: bytes; no more than that is read. Raises PathError."""
    try:
        with path.open("rb") as file:
            content = file.read() if most is None else file.read(most + 1)
        if most is not None and len(content) > most:
            raise PathError(TOO_LARGE, file=str(path), line=1)
        return content.decode("utf-8-sig", errors)
    except OSError as error:
        raise PathError(f"cannot be read: {error.strerror}", file=str(path)) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise PathError("not UTF-8", file=str(path), line=line) from error


def load_policy(paths: Iterable[Path]) -> list[LoadResult]:
    """Raises PathError."""
    return [load_documents(read_policy(path), str(path)) for path in expand(paths, POLICY_SUFFIXES)]
