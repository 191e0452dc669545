# SPDX-License-Identifier: Apache-2.0
"""TOML text to frozen structs, with errors that name file, line, key and what was expected.

It stands in this package because the configuration of the appliance and of the feeds share it and imports run one way.
"""

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec

from fastpath.errors import PortcullisError
from threatfeeds.toml_lines import key_lines

_ENTRY = re.compile(r" - at \$\[(\d+)\]")
_TOML_LINE = re.compile(r"\(at line (\d+), column \d+\)")


class Section(msgspec.Struct, frozen=True):
    """A table of settings. A field whose type is a Section is a table inside it."""


SectionT = TypeVar("SectionT", bound=Section)


class SettingsReader:
    """Reads one TOML text. Every failure is raised as `error_type`."""

    def __init__(self, text: str, file: str, error_type: type[PortcullisError]) -> None:
        self._file = file
        self._error_type = error_type
        try:
            self._table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            message = str(error)
            place = _TOML_LINE.search(message)
            line = int(place[1]) if place else len(text.splitlines()) or 1
            why = _TOML_LINE.sub("", message).strip()
            raise error_type(f"not valid TOML: {why}", file=file, line=line) from error
        self._lines = key_lines(text)

    def read(self, kind: type[SectionT]) -> SectionT:
        return self._section(kind, self._table, ())

    def error(self, path: tuple[str, ...], message: str) -> PortcullisError:
        """An error at the setting `path`, or at the nearest table around it that is in the text."""
        ends = range(len(path), 0, -1)
        line = next((self._lines[path[:end]] for end in ends if path[:end] in self._lines), None)
        return self._error_type(message, file=self._file, line=line, field=".".join(path))

    def form(self, path: tuple[str, ...], text: str, parse: Callable[[str], object]) -> None:
        """Raises an error at `path` when `parse` refuses the text with ValueError."""
        try:
            parse(text)
        except ValueError as error:
            raise self.error(path, str(error)) from error

    def _section(self, kind: type[SectionT], table: object, path: tuple[str, ...]) -> SectionT:
        if not isinstance(table, dict):
            raise self.error(path, f"expected a table of settings, got {_type_name(table)}")
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        values: dict[str, Any] = {}
        for key, value in table.items():
            if key not in fields:
                raise self.error((*path, key), _unknown(key, fields, path))
            expected = fields[key].type
            if isinstance(expected, type) and issubclass(expected, Section):
                values[key] = self._section(expected, value, (*path, key))
            else:
                values[key] = self._value(expected, value, (*path, key))
        for name, field in fields.items():
            if field.required and name not in values:
                raise self.error((*path, name), "this setting is required")
        return kind(**values)

    def _value(self, expected: Any, value: object, path: tuple[str, ...]) -> Any:
        try:
            return msgspec.convert(value, expected)
        except msgspec.ValidationError as error:
            if get_origin(expected) is dict and isinstance(value, dict):
                for key, item in value.items():  # the entry that is wrong, not all of them
                    self._value(get_args(expected)[1], item, (*path, key))
            message = _ENTRY.sub(lambda found: f" in entry {int(found[1]) + 1}", str(error).replace("`", ""))
            if " matching regex " in message and (described := _description(expected)):
                place = _ENTRY.search(str(error).replace("`", ""))
                got = f"got {value!r}"
                if place is not None and isinstance(value, list):
                    got = f"entry {int(place[1]) + 1} is {value[int(place[1])]!r}"
                raise self.error(path, f"expected {described}; {got}") from error
            if message.startswith("Invalid enum value"):
                choices = ", ".join(f'"{choice}"' for choice in _choices(expected))
                wrong = message.removeprefix("Invalid enum value ").partition(" - at ")[0]
                raise self.error(path, f"expected one of {choices}, got {wrong}") from error
            raise self.error(path, f"{message[0].lower()}{message[1:]} (the value is {value!r})") from error


def _unknown(key: str, fields: Mapping[str, object], path: tuple[str, ...]) -> str:
    place = f"[{'.'.join(path)}]" if path else "this file"
    close = difflib.get_close_matches(key, fields, n=1)
    hint = f'did you mean "{close[0]}"?' if close else "known are " + ", ".join(fields)
    return f'unknown setting "{key}" in {place}; {hint}'


def _description(expected: Any) -> str:
    """Of what a text has to match, also inside tuple[Annotated[...], ...]."""
    if isinstance(expected, msgspec.Meta):
        return expected.description or ""
    return next(filter(None, map(_description, get_args(expected))), "")


def _choices(expected: Any) -> tuple[object, ...]:
    """The values of a Literal, also inside tuple[Literal[...], ...]."""
    arguments = get_args(expected)
    return arguments if get_origin(expected) is Literal else _choices(arguments[0])


def _type_name(value: object) -> str:
    return {dict: "a table", list: "a list", str: "a string", bool: "a boolean", int: "an integer"}.get(
        type(value), type(value).__name__
    )
