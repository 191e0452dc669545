# SPDX-License-Identifier: Apache-2.0
"""A signature while its options are read, one after the other."""

from dataclasses import replace
from typing import Any

from rules.signatures.model import (
    PAYLOAD,
    Content,
    FlowCondition,
    Header,
    Item,
    Signature,
    SignatureError,
    SizeRange,
)


class Builder:
    """Keywords write here. `buffer` is the sticky buffer that the next content or pcre looks into."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.buffer = PAYLOAD
        self.facts: dict[str, str] = {}
        self.references: list[str] = []
        self.metadata: list[str] = []
        self.flow: FlowCondition | None = None
        self.dsize: SizeRange | None = None
        self._items: dict[str, list[Item]] = {}
        self._last: tuple[str, int] | None = None

    def add(self, item: Item, buffer: str | None = None) -> None:
        name = buffer or self.buffer
        items = self._items.setdefault(name, [])
        items.append(item)
        if isinstance(item, Content):
            self._last = (name, len(items) - 1)

    def modify_content(self, **changes: Any) -> None:
        """Change the content that the modifier stands behind. Raises SignatureError if there is none."""
        if self._last is None:
            raise SignatureError("stands behind no content")
        name, index = self._last
        content = self._items[name][index]
        assert isinstance(content, Content)
        self._items[name][index] = replace(content, **changes)

    def move_content(self, buffer: str) -> None:
        """What a legacy modifier (http_uri and the like) says: the content before it looks into `buffer`."""
        if self._last is None:
            raise SignatureError("stands behind no content")
        name, index = self._last
        item = self._items[name].pop(index)
        if not self._items[name]:
            del self._items[name]
        self.add(item, buffer)

    def set_fact(self, name: str, value: str) -> None:
        if name in self.facts:
            raise SignatureError("is given twice")
        self.facts[name] = value

    def finish(self, action: str, file: str, line: int) -> Signature:
        """Raises SignatureError when something is missing or contradicts itself."""
        if "sid" not in self.facts:
            raise SignatureError("sid is missing", field="sid")
        for items in self._items.values():
            _check(items)
        return Signature(
            action=action,
            header=self.header,
            sid=int(self.facts["sid"]),
            rev=int(self.facts.get("rev", "0")),
            gid=int(self.facts.get("gid", "1")),
            msg=self.facts.get("msg", ""),
            classtype=self.facts.get("classtype", ""),
            priority=int(self.facts.get("priority", "3")),
            references=tuple(self.references),
            metadata=tuple(self.metadata),
            flow=self.flow or FlowCondition(),
            dsize=self.dsize,
            buffers=tuple((name, tuple(items)) for name, items in self._items.items()),
            file=file,
            line=line,
        )


def _check(items: list[Item]) -> None:
    for item in items:
        if not isinstance(item, Content):
            continue
        if item.relative and (item.offset or item.depth is not None or item.startswith):
            raise SignatureError("a content is relative and absolute at once", field="content")
        for limit, what in ((item.depth, "depth"), (item.within, "within")):
            if limit is not None and limit < len(item.pattern):
                raise SignatureError(f"is shorter than its content of {len(item.pattern)} bytes", field=what)
