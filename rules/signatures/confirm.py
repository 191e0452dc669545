# SPDX-License-Identifier: Apache-2.0
"""Does a buffer satisfy the items of a signature? Exact, with backtracking over earlier matches, bounded."""

from collections.abc import Iterator

from rules.signatures.model import Content, Item, Pcre, SizeRange

MAX_STEPS = 4096  # matches tried for one buffer of one signature; beyond it the signature does not match


def buffer_holds(items: tuple[Item, ...], data: bytes) -> bool:
    """All items, in order: a relative item may only match behind the previous one."""
    return _holds(items, 0, data, data.lower(), 0, [MAX_STEPS])


def _holds(items: tuple[Item, ...], index: int, data: bytes, lower: bytes, last: int, steps: list[int]) -> bool:
    if index == len(items):
        return True
    item = items[index]
    if isinstance(item, SizeRange):
        return item.holds(len(data)) and _holds(items, index + 1, data, lower, last, steps)
    ends = _content(item, data, lower, last) if isinstance(item, Content) else _pcre(item, data, last)
    if item.negated:
        return next(ends, None) is None and _holds(items, index + 1, data, lower, last, steps)
    following = items[index + 1] if index + 1 < len(items) else None
    relative = isinstance(following, Content | Pcre) and following.relative
    for end in ends:
        steps[0] -= 1
        if _holds(items, index + 1, data, lower, end, steps):
            return True
        # What follows does not depend on where this one matched.
        if not relative or steps[0] <= 0:
            return False
    return False


def _content(item: Content, data: bytes, lower: bytes, last: int) -> Iterator[int]:
    """Where the content's matches end."""
    size = len(item.pattern)
    low, high = item.offset, len(data)
    if item.relative:
        low = last + (item.distance or 0)
        if item.within is not None:
            high = min(high, low + item.within)
        low = max(low, 0)
    elif item.depth is not None:
        high = min(high, low + item.depth)
    if item.startswith:
        low, high = 0, min(high, size)
    if item.endswith:
        low = max(low, len(data) - size)
    text, pattern = (lower, item.pattern.lower()) if item.nocase else (data, item.pattern)
    position = text.find(pattern, low, high)
    while position >= 0:
        yield position + size
        position = text.find(pattern, position + 1, high)


def _pcre(item: Pcre, data: bytes, last: int) -> Iterator[int]:
    return item.expression.ends(data, last if item.relative else 0)
