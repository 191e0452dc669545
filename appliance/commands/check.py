# SPDX-License-Identifier: Apache-2.0
"""`portcullis check PATH…`: policy resources, configuration, feeds and signatures, for a person or for a CI job. With
`--config FILE` and no path: that configuration, and the files that it names."""

import json
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from appliance.commands.files import POLICY_SUFFIXES, PathError, expand_each, read_policy, read_text
from appliance.config import Config, load_config, parse_config
from appliance.sources.feed_copies import read_file
from fastpath.errors import PortcullisError
from rules.policy import CompileOptions, LoadResult, Resource, compile_policy, load_documents, merge
from rules.signatures import parse_signatures
from threatfeeds import load_feed_config, rejected_problem
from threatfeeds.calico import KIND, read_threat_feeds
from threatfeeds.config import SOURCES

DNS = ((17, 53, 53), (6, 53, 53))  # where inspectors see answers
LONGEST = 400  # characters of a name or of a field, for a person
SUFFIXES = (*POLICY_SUFFIXES, ".toml", ".rules")
POLICY_FILES = (".yaml", ".yml")  # that the service reads of a folder
FEED_FILES = (*POLICY_FILES, ".toml")


@dataclass(frozen=True)
class Problem:
    """What is wrong, at which line (0: unknown) and in which field ("": the whole)."""

    message: str
    line: int = 0
    field: str = ""

    @classmethod
    def of(cls, error: PortcullisError) -> "Problem":
        return cls(error.message, error.line or 0, error.field or "")


@dataclass(frozen=True)
class Checked:
    """One resource: a policy document, a configuration, a feed, a signature file's rule."""

    file: str
    line: int
    kind: str
    name: str
    errors: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()

    def as_json(self) -> dict[str, object]:
        return {
            "file": self.file,
            "line": self.line,
            "kind": self.kind,
            "name": self.name,
            "valid": not self.errors,
            "errors": [{"field": error.field, "message": error.message} for error in self.errors],
        }

    def lines(self) -> Iterator[str]:
        """`file:line: kind/name: field: message`"""
        yield from map(self._line, self.errors)

    def warning_lines(self) -> Iterator[str]:
        yield from map(self._line, self.warnings)

    def _line(self, problem: Problem) -> str:
        title = "/".join(_short(part) for part in (self.kind, self.name) if part)
        place = f"{self.file}:{problem.line or self.line or 1}"
        return ": ".join(part for part in (place, title, _short(problem.field), problem.message) if part)


def _short(text: str) -> str:
    """On one line of a terminal, whatever a document calls its things."""
    text = text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def check(
    paths: Sequence[Path], *, as_json: bool, config: Path | None = None, write: Callable[[str], None] = print
) -> int:
    """1 if something is invalid or cannot be read, else 0. config: under which what is valid would be enforced; without
    one the defaults count. Without paths it is checked itself. Raises PortcullisError if it makes no sense."""
    if paths:
        settings = load_config(config) if config is not None else Config()
        checked, resources = check_paths(paths)
    elif config is not None:
        settings, checked, resources = _check_config(config)
    else:
        raise PortcullisError("nothing to check: name a PATH, or --config FILE")
    invalid = sum(bool(entry.errors) for entry in checked)
    for entry in checked:
        if as_json:
            write(json.dumps(entry.as_json()))
        else:
            for line in entry.lines():
                write(line)
    if not as_json:
        told = (warning for entry in checked for warning in entry.warning_lines())
        for warning in (*told, *_warnings(resources, settings)):
            write(f"warning: {warning}")
        write(f"{len(checked)} checked, {invalid} invalid")
    return 1 if invalid else 0


def check_paths(paths: Sequence[Path]) -> tuple[list[Checked], tuple[Resource, ...]]:
    """What was looked at, and the policy resources that are valid."""
    files, missing = expand_each(paths, SUFFIXES)
    gone = [Checked(error.file or "", 0, "", "", (Problem.of(error),)) for error in missing]
    checked, resources = _check_files([(path, path.suffix) for path in files])
    return [*gone, *checked], resources


def _check_config(path: Path) -> tuple[Config, list[Checked], tuple[Resource, ...]]:
    """A configuration and what the service would read of what it names."""
    try:
        config = load_config(path)
    except PortcullisError as error:
        return Config(), [_configuration(path, error)], ()
    gone: list[Checked] = []
    files: list[tuple[Path, str]] = []
    for setting, named, standard, suffixes in (
        ("policy.paths", config.policy.paths, Config().policy.paths, POLICY_FILES),
        ("feeds.paths", config.feeds.paths, Config().feeds.paths, FEED_FILES),
    ):
        for folder in map(Path, named):
            if folder.is_dir():
                below = (file for file in folder.iterdir() if file.suffix in suffixes and file.name[0] != ".")
                files += [(file, file.suffix) for file in sorted(below)]
            elif folder.exists():
                files.append((folder, folder.suffix))
            elif named != standard:
                gone.append(_configuration(path, PathError(f"{folder} does not exist", field=setting)))
    for pattern in map(Path, config.inspection.signatures if config.inspection.inspectors else ()):
        files += [(file, ".rules") for file in sorted(pattern.parent.glob(pattern.name))]
    checked, resources = _check_files(list(dict.fromkeys(files)))
    return config, [*(gone or [_configuration(path)]), *checked], resources


def _configuration(path: Path, error: PortcullisError | None = None) -> Checked:
    problems = (Problem.of(error),) if error is not None else ()
    return Checked(str(path), problems[0].line if problems else 1, "Configuration", path.name, problems)


def _check_files(files: Sequence[tuple[Path, str]]) -> tuple[list[Checked], tuple[Resource, ...]]:
    """Files, and the suffix that says what is in each."""
    policies: list[LoadResult] = []
    checked = list(_each(files, policies))
    known = {id(error) for result in policies for error in result.errors}
    of_place: dict[tuple[str, int, str, str], list[int]] = {}
    for i, entry in enumerate(checked):
        if not entry.errors:
            of_place.setdefault((entry.file, entry.line, entry.kind, entry.name.rpartition("/")[2]), []).append(i)
    resources, errors = merge(policies)
    for error in errors:  # what stands twice is said where it stands again, the last on a line first
        if id(error) not in known:
            i = of_place[error.file or "", error.line or 0, error.kind, error.name.rpartition("/")[2]].pop()
            checked[i] = replace(checked[i], errors=(*checked[i].errors, Problem.of(error)))
    return checked, resources


def _each(files: Sequence[tuple[Path, str]], policies: list[LoadResult]) -> Iterator[Checked]:
    """Each by itself. What is read of policy is added to `policies`."""
    for path, suffix in files:
        try:
            text = read_text(path) if suffix in (".toml", ".rules") else read_policy(path)
        except PathError as error:
            yield Checked(str(path), error.line or 0, "", "", (Problem.of(error),))
            continue
        if suffix == ".rules":
            yield from _signatures(text, str(path))
        elif suffix == ".toml":
            yield _settings(text, path)
        else:
            policies.append(load_documents(text, str(path)))
            if any(report.kind == KIND for report in policies[-1].reports):
                yield from _threat_feeds(text, str(path))
            for report in policies[-1].reports:
                if report.kind == KIND:
                    continue
                yield Checked(
                    report.file, report.line, report.kind, report.name, tuple(Problem.of(e) for e in report.errors)
                )


def _settings(text: str, path: Path) -> Checked:
    """A feed if it says where its list is, otherwise the configuration."""
    try:
        is_feed = bool(tomllib.loads(text).keys() & set(SOURCES))
    except tomllib.TOMLDecodeError:
        is_feed = path.parent.name == "feeds.d"
    if is_feed:
        return _feed(text, path)
    try:
        parse_config(text, str(path))
    except PortcullisError as error:
        return _configuration(path, error)
    return _configuration(path)


def _feed(text: str, path: Path) -> Checked:
    name = path.stem
    try:
        config = load_feed_config(text, str(path))
        name = config.name
        if config.prepared:  # the list comes from elsewhere, later
            return Checked(str(path), 1, "Feed", name)
        config = msgspec.structs.replace(config, file=str(path.parent / config.file))
        content = read_file(config)
    except OSError as error:
        problem = Problem(f"the list {error.filename} cannot be read: {error.strerror}", 0, "file")
        return Checked(str(path), 1, "Feed", name, (problem,))
    except PortcullisError as error:
        return Checked(error.file or str(path), error.line or 0, "Feed", name, (Problem.of(error),))
    problems = tuple(Problem(f"{line.why}: {line.text!r}", line.line) for line in content.rejected)
    if config.max_rejected is not None and rejected_problem(config, content) is None:
        problems = ()
    return Checked(config.file if problems else str(path), 1, "Feed", name, problems)


def _threat_feeds(text: str, file: str) -> Iterator[Checked]:
    """Calico's resource is a feed: it belongs into feeds.d. Other resources of the same file are told of as policy."""
    for feed in read_threat_feeds(text, file):
        if feed.kind == KIND:
            errors, warnings = (
                (Problem.of(problem),) if problem is not None else () for problem in (feed.error, feed.warning)
            )
            yield Checked(file, feed.line, KIND, feed.name, errors, warnings)


def _signatures(text: str, file: str) -> Iterator[Checked]:
    loaded = parse_signatures(text, file)
    for signature in loaded.signatures:
        yield Checked(file, signature.line, "Signature", str(signature.sid))
    for error in loaded.errors:
        yield Checked(file, error.line or 0, "Signature", "", (Problem.of(error),))


def _warnings(resources: Sequence[Resource], config: Config) -> Iterator[str]:
    """What is valid and yet not enforced."""
    inspected = config.inspection.inspectors > 0
    options = CompileOptions(scope="gateway", requests=inspected, name_ports=DNS if inspected else ())
    yield from map(str, compile_policy(resources, options).warnings)
