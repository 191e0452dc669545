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

SUFFIXES = (".yaml", ".yml")

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
        async for _ in changes(lambda: self._paths):
            current = await self._refresh(everything=False)
            if current is not told:
                told = current
                yield current

    async def _refresh(self, *, everything: bool) -> SourceSnapshot[Resource]:
        """Keeps the snapshot object when nothing changed, so that identity tells."""
        async with self._lock:
            files, error = await asyncio.to_thread(self._read, dict(self._files), everything)
            changed = files != self._files or error != self._scan_error
            self._files, self._scan_error = files, error
            if changed or self._current is None:
                self._current = _merge(files, error)
            return self._current

    def _read(self, old: dict[Path, _File], everything: bool) -> tuple[dict[Path, _File], SourceError | None]:
        try:
            states = scan(self._paths, SUFFIXES)
        except OSError as error:
            return old, SourceError(f"the directory cannot be read: {error.strerror}", file=error.filename)
        files: dict[Path, _File] = {}
        for path, state in states.items():
            before = old.get(path)
            files[path] = (
                before if before and before.state == state and not everything else self._file(path, state, before)
            )
        return files, None

    def _file(self, path: Path, state: FileState, before: _File | None) -> _File:
        earlier = (*before.resources, *before.kept) if before else ()
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except OSError as error:
            return _File(state, (), earlier, (SourceError(f"the file cannot be read: {error.strerror}", str(path)),))
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            return _File(state, (), earlier, (SourceError("the file is not UTF-8", str(path), line),))
        result = self._load(text, str(path))
        errors = tuple(_source_error(error, str(path)) for error in result.errors)
        return _File(state, tuple(result.resources), _kept(earlier, result), errors)


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
        resource for resource in earlier
        if not broken.isdisjoint((resource.title, resource.name)) and resource.key not in present
    )


def _source_error(error: ResourceError, file: str) -> SourceError:
    return SourceError(error.message, error.file or file, error.line, error.field)


def _merge(files: dict[Path, _File], error: SourceError | None) -> SourceSnapshot[Resource]:
    """One resource for each name: fresh before kept, then by file name. A second definition is an error."""
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
    return SourceSnapshot({origin: tuple(found) for origin, found in items.items()}, tuple(errors), tuple(sorted(kept)))
