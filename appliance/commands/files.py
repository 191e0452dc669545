# SPDX-License-Identifier: Apache-2.0
"""Paths on a command line → policy resources."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from fastpath.errors import PortcullisError
from rules.policy import LoadResult, load_documents

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


def read_text(path: Path) -> str:
    """Raises PathError."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise PathError(f"cannot be read: {error.strerror}", file=str(path)) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise PathError("not UTF-8", file=str(path), line=line) from error


def load_policy(paths: Iterable[Path]) -> list[LoadResult]:
    """Raises PathError."""
    return [load_documents(read_text(path), str(path)) for path in expand(paths, POLICY_SUFFIXES)]
