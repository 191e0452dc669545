# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a policy."""

from fastpath.errors import PortcullisError


class SelectorError(PortcullisError):
    """A selector that does not parse. `position` counts characters from 0."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(f"{message} (at character {position})")
        self.position = position


class ResourceError(PortcullisError):
    """One thing wrong with one resource; `line` counts from 1, `field` is a path such as `spec.ingress[0].protocol`."""

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        line: int | None = None,
        field: str | None = None,
        kind: str = "",
        name: str = "",
        document: int = 0,
    ) -> None:
        super().__init__(message, file=file, line=line, field=field)
        self.reason = message
        self.at_file = file
        self.at_line = line
        self.at_field = field
        self.kind = kind
        self.name = name
        self.document = document
