# SPDX-License-Identifier: Apache-2.0
"""TOML text to Config. Errors name file, line, key and what was expected."""

import difflib
import ipaddress
import re
import socket
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec

from appliance.config.model import Config, Section, parse_listen, parse_port, parse_ports
from appliance.config.toml_lines import key_lines
from fastpath.errors import PortcullisError

DEFAULT_PATH = Path("/etc/portcullis/portcullis.toml")

SectionT = TypeVar("SectionT", bound=Section)

_NAME = re.compile(r"(?=.{1,253}\Z)(?=.*[A-Za-z])[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")
_TOML_LINE = re.compile(r"\(at line (\d+), column \d+\)")


class ConfigError(PortcullisError):
    """The configuration cannot be used: file, line and key path say where."""


def load_config(path: Path | None = None) -> Config:
    """Reads the configuration. Without a path: DEFAULT_PATH if it exists, otherwise every default.

    Raises ConfigError, also for a named file that cannot be read.
    """
    chosen = path if path is not None else DEFAULT_PATH
    try:
        text = chosen.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        if path is None:
            return parse_config("", str(DEFAULT_PATH))
        raise ConfigError("the configuration file does not exist", file=str(chosen)) from error
    except OSError as error:
        raise ConfigError(f"the configuration file cannot be read: {error.strerror}", file=str(chosen)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the configuration file is not UTF-8 (byte {error.start})", file=str(chosen)) from error
    return parse_config(text, str(chosen))


def parse_config(text: str, file: str = "<config>", hostname: str | None = None) -> Config:
    """Pure but for the host name, which can be given. Raises ConfigError."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        place = _TOML_LINE.search(message)
        line = int(place[1]) if place else len(text.splitlines()) or 1
        raise ConfigError(f"not valid TOML: {_TOML_LINE.sub('', message).strip()}", file=file, line=line) from error
    reader = _Reader(file, key_lines(text))
    config = reader.section(Config, table, ())
    reader.check(config)
    return msgspec.structs.replace(
        config,
        node=config.node or hostname or socket.gethostname(),
        failures=config.failures.resolved(config.mode),
    )


class _Reader:
    def __init__(self, file: str, lines: Mapping[tuple[str, ...], int]) -> None:
        self.file = file
        self.lines = lines

    def error(self, path: tuple[str, ...], message: str) -> ConfigError:
        line = next((self.lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self.lines), None)
        return ConfigError(message, file=self.file, line=line, field=".".join(path))

    def section(self, kind: type[SectionT], table: object, path: tuple[str, ...]) -> SectionT:
        if not isinstance(table, dict):
            raise self.error(path, f"expected a table of settings, got {_type_name(table)}")
        fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
        values: dict[str, Any] = {}
        for key, value in table.items():
            if key not in fields:
                raise self.error((*path, key), _unknown(key, fields, path))
            expected = fields[key]
            if isinstance(expected, type) and issubclass(expected, Section):
                values[key] = self.section(expected, value, (*path, key))
            else:
                values[key] = self.value(expected, value, (*path, key))
        return kind(**values)

    def value(self, expected: Any, value: object, path: tuple[str, ...]) -> Any:
        try:
            return msgspec.convert(value, expected)
        except msgspec.ValidationError as error:
            message = str(error).replace("`", "")
            if message.startswith("Invalid enum value"):
                choices = ", ".join(f'"{choice}"' for choice in _choices(expected))
                wrong = message.removeprefix("Invalid enum value ").partition(" - at ")[0]
                raise self.error(path, f"expected one of {choices}, got {wrong}") from error
            raise self.error(path, f"{message[0].lower()}{message[1:]} (the value is {value!r})") from error

    def check(self, config: Config) -> None:
        """What types cannot say: the form of strings, and numbers that collide."""
        for path, entries, parse in (
            (("failsafe", "inbound"), config.failsafe.inbound, parse_port),
            (("failsafe", "outbound"), config.failsafe.outbound, parse_port),
            (("policy", "inspect_ports"), config.policy.inspect_ports, parse_ports),
            (("feeds", "allow"), config.feeds.allow, _parse_allowed),
        ):
            for entry in entries:
                self.form(path, entry, parse)
        if config.metrics.listen:
            self.form(("metrics", "listen"), config.metrics.listen, parse_listen)
        mask = config.mark.mask
        if mask // (mask & -mask) != 0xFF:
            raise self.error(("mark", "mask"), f"expected eight adjacent bits such as 0xff000000, got {mask:#x}")
        self.check_queues(config)

    def check_queues(self, config: Config) -> None:
        queues, inspectors = config.queues, config.inspection.inspectors
        count = queues.workers(1)
        for key, first, size in (("first", queues.first, count), ("slow_first", queues.slow_first, inspectors)):
            if first + size > 65536:
                raise self.error(("queues", key), f"queue {first} and {size - 1} more end beyond number 65535")
        fast = range(queues.first, queues.first + count)
        slow = range(queues.slow_first, queues.slow_first + inspectors)
        if queues.look in fast or queues.look in slow:
            raise self.error(("queues", "look"), f"queue {queues.look} is already one of the other queues")
        if fast.start < slow.stop and slow.start < fast.stop:
            taken = max(fast.start, slow.start)
            raise self.error(("queues", "slow_first"), f"workers and inspectors would share queue {taken}")

    def form(self, path: tuple[str, ...], text: str, parse: Callable[[str], object]) -> None:
        try:
            parse(text)
        except ValueError as error:
            raise self.error(path, str(error)) from error


def _unknown(key: str, fields: Mapping[str, object], path: tuple[str, ...]) -> str:
    place = f"[{'.'.join(path)}]" if path else "the configuration"
    close = difflib.get_close_matches(key, fields, n=1)
    hint = f'did you mean "{close[0]}"?' if close else "known are " + ", ".join(fields)
    return f'unknown setting "{key}" in {place}; {hint}'


def _choices(expected: Any) -> tuple[object, ...]:
    """The values of a Literal, also inside tuple[Literal[...], ...]."""
    arguments = get_args(expected)
    return arguments if get_origin(expected) is Literal else _choices(arguments[0])


def _type_name(value: object) -> str:
    return {dict: "a table", list: "a list", str: "a string", bool: "a boolean", int: "an integer"}.get(
        type(value), type(value).__name__
    )


def _parse_allowed(text: str) -> None:
    """An address, a network or a name. Raises ValueError."""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        if not _NAME.fullmatch(text):
            raise ValueError(f"expected an address, a network or a name, got {text!r}") from None
