# SPDX-License-Identifier: Apache-2.0
"""Policy resources from YAML files: policy.d/*.yaml and *.yml, many documents in one file.

The last good state is kept for each resource: a document that became invalid leaves its earlier version in force, a
document that was taken out, or whose file was removed, is gone.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.sources.base import SourceError, SourcesError, SourceSnapshot
from appliance.sources.files import FileState, changes, scan
from rules.policy import LoadResult, Resource, ResourceError
from rules.policy.documents import MAX_BYTES, TOO_LARGE

SUFFIXES = (".yaml", ".yml")

AT_ONCE = 16384  # bytes that are read sooner than a thread wakes up

Loader = Callable[[str, str], LoadResult]
Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class _File:
    state: FileState
    resources: tuple[Resource, ...] = ()  # valid in the file as it is now
    kept: tuple[Resource, ...] = ()  # valid in an earlier version of it
    errors: tuple[SourceError, ...] = ()


class PolicyDirectory:
    """A Source of policy resources. `load` is rules.policy.load_documents.

    required: a path that does not exist is an error (it was configured explicitly), otherwise it counts as empty.
    """

    name = "policy"

    def __init__(self, paths: Sequence[Path], load: Loader, *, required: bool = False) -> None:
        self._paths = tuple(paths)
        self._load = load
        self._required = required
        self._files: dict[Path, _File] = {}
        self._merged = _Merged()
        self._scan_error: SourceError | None = None
        self._current: SourceSnapshot[Resource] | None = None
        self._lock = asyncio.Lock()

    async def snapshot(self) -> SourceSnapshot[Resource]:
        if self._current is None:
            if self._required:
                for path in self._paths:
                    if not path.exists():
                        raise SourcesError("the policy directory does not exist", file=str(path))
            return await self._refresh(everything=False)
        return self._current

    async def resync(self) -> SourceSnapshot[Resource]:
        return await self._refresh(everything=True)

    async def watch(self) -> AsyncIterator[SourceSnapshot[Resource]]:
        told = await self.snapshot()
        async for paths in changes(lambda: self._paths, SUFFIXES):
            current = await self._refresh(everything=False, paths=paths)
            if current is not told:
                told = current
                yield current

    async def _refresh(self, *, everything: bool, paths: frozenset[Path] | None = None) -> SourceSnapshot[Resource]:
        """Keeps the snapshot object when nothing changed, so that identity tells. paths: the files to look at, if not
        all."""
        async with self._lock:
            if paths is not None and _are_small(paths):
                fresh, gone, error = self._read(everything, paths)
            else:
                fresh, gone, error = await asyncio.to_thread(self._read, everything, paths)
            if self._current is None or fresh or gone or error != self._scan_error:
                files = {path: file for path, file in self._files.items() if path not in gone} | fresh
                before, self._files, self._scan_error = self._files, files, error
                touched = {path: (before.get(path), files.get(path)) for path in (*fresh, *gone)}
                self._current = self._merged.take(touched) or self._merged.all(files, error)
            return self._current

    def _read(
        self, everything: bool, paths: frozenset[Path] | None
    ) -> tuple[dict[Path, _File], set[Path], SourceError | None]:
        """(files that are new or different, those that are gone, why the directory cannot be read)"""
        old = self._files
        listed = self._paths if paths is None else tuple(path for path in paths if self._ours(path))
        try:
            states = scan(listed, SUFFIXES)
        except OSError as error:
            return {}, set(), SourceError(f"the directory cannot be read: {error.strerror}", file=error.filename)
        fresh: dict[Path, _File] = {}
        for path, state in states.items():
            before = old.get(path)
            if before is None or before.state != state or everything:
                file = self._file(path, state, before)
                if file != before:
                    fresh[path] = file
        gone = (old.keys() if paths is None else old.keys() & paths) - states.keys()
        return fresh, gone, self._scan_error if paths is not None else None

    def _ours(self, path: Path) -> bool:
        """Whether it is in a directory of ours, or is itself one of the paths."""
        return path in self._paths or (
            path.parent in self._paths and path.suffix in SUFFIXES and not path.name.startswith(".")
        )

    def _file(self, path: Path, state: FileState, before: _File | None) -> _File:
        earlier = (*before.resources, *before.kept) if before else ()
        try:
            with path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                return _File(state, (), earlier, (SourceError(TOO_LARGE, str(path), 1),))
            text = content.decode("utf-8-sig", "surrogateescape")  # one document that is not UTF-8 hides no other
        except OSError as error:
            return _File(state, (), earlier, (SourceError(f"the file cannot be read: {error.strerror}", str(path)),))
        result = self._load(text, str(path))
        errors = tuple(_source_error(error, str(path)) for error in result.errors)
        return _File(state, tuple(result.resources), _kept(earlier, result), errors)


def _are_small(paths: frozenset[Path]) -> bool:
    """One file that was just written or taken away, as far as it has to be read."""
    try:
        return len(paths) == 1 and all(path.stat().st_size <= AT_ONCE for path in paths)
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _kept(earlier: Sequence[Resource], result: LoadResult) -> tuple[Resource, ...]:
    """Earlier resources that a broken document may stand for. An error that does not say which resource it is about
    (broken YAML) may be about any of them."""
    if not result.errors:
        return ()
    present = {resource.key for resource in result.resources}
    broken: set[str] = set()
    for error in result.errors:
        if not error.name:
            return tuple(resource for resource in earlier if resource.key not in present)
        broken.add(error.name)  # whatever the kind: the kind may be what was mistyped
    # The document may have left the namespace out, which then is the default one.
    return tuple(
        resource
        for resource in earlier
        if not broken.isdisjoint((resource.title, resource.name)) and resource.key not in present
    )


def _source_error(error: ResourceError, file: str) -> SourceError:
    return SourceError(error.message, error.file or file, error.line, error.field)


class _Merged:
    """One resource for each name: fresh before kept, then by file name. A second definition is an error."""

    def __init__(self) -> None:
        self._owner: dict[Key, Resource] = {}
        self._items: dict[str, tuple[Resource, ...]] = {}
        self._plain = False  # no errors, nothing kept, no name twice: a file can be exchanged by itself

    def all(self, files: dict[Path, _File], error: SourceError | None) -> SourceSnapshot[Resource]:
        owner: dict[Key, Resource] = {}
        items: dict[str, list[Resource]] = {str(path): [] for path in files}
        errors = [error] if error else []
        errors += [problem for path in sorted(files) for problem in files[path].errors]
        kept: set[str] = set()
        for fresh in (True, False):
            for path in sorted(files):
                for resource in files[path].resources if fresh else files[path].kept:
                    first = owner.setdefault(resource.key, resource)
                    if first is resource:
                        items[str(path)].append(resource)
                        if not fresh:
                            kept.add(str(path))
                    elif fresh:
                        message = f'{resource.kind} "{resource.name}" is already defined in {first.file}:{first.line}'
                        errors.append(SourceError(message, resource.file, resource.line, "metadata.name"))
        self._owner = owner
        self._items = {origin: tuple(found) for origin, found in items.items()}
        self._plain = not errors and not kept
        return SourceSnapshot(self._items, tuple(errors), tuple(sorted(kept)))

    def take(self, touched: dict[Path, tuple[_File | None, _File | None]]) -> SourceSnapshot[Resource] | None:
        """Only some files changed: (before, now), None for none. None where the others have to be looked at, too."""
        plain = self._plain and all(now is None or not (now.errors or now.kept) for _, now in touched.values())
        self._plain = False  # until it is done
        if not plain:
            return None
        for before, _ in touched.values():
            for resource in before.resources if before else ():
                del self._owner[resource.key]
        items = dict(self._items)
        for path, (_, now) in touched.items():
            items.pop(str(path), None)
            for resource in now.resources if now else ():
                if self._owner.setdefault(resource.key, resource) is not resource:
                    return None
            if now:
                items[str(path)] = now.resources
        self._items, self._plain = items, True
        return SourceSnapshot(items)
