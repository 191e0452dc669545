# SPDX-License-Identifier: Apache-2.0
"""What portcullis-feeds keeps on disk, below its state folder.

feeds.set        the checked set (threatfeeds.binary)
health.json      how each feed is doing
NAME/list        the last good copy, as it came
NAME/state.json  what its source wants to know again
NAME/quarantine  a copy that was not believed
"""

import contextlib
import os
import stat
import sys
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

from threatfeeds.binary import LARGEST, SetFeed, decode
from threatfeeds.config import FeedConfig, FeedError
from threatfeeds.fetch.memory import Memory

SET = "feeds.set"
HEALTH = "health.json"
STALE = 3  # periods without word from the source
PIECE = 256 << 10  # bytes of a file in one system call, some 0.1 ms
_HEALTH_LARGEST = 16 << 20  # bytes

HealthState = Literal["waiting", "ok", "failed", "quarantined", "expired"]


class Health(msgspec.Struct, frozen=True):
    """How a feed is doing. Times in seconds since 1970, 0: never.

    confirmed: when its source last said, with a new list or without, what is in force. added, removed: entries, by
    the last change. rejected: lines of the list in force that are no indicator.
    """

    state: HealthState = "waiting"
    problem: str = ""
    checked: float = 0.0
    confirmed: float = 0.0
    changed: float = 0.0
    entries: int = 0
    added: int = 0
    removed: int = 0
    rejected: int = 0
    failures: int = 0  # in a row


class FeedState(msgspec.Struct, frozen=True):
    """NAME/state.json"""

    memory: Memory = Memory()
    health: Health = Health()
    format: str = ""  # what the list in force was read as
    asked: str = ""  # FeedConfig.source of the last attempt; that of the list in force is memory.url
    due: float = 0.0


def given_up(config: FeedConfig, health: Health | None, now: float) -> bool:
    """Whether nobody confirmed the last good copy for longer than the feed's `expires`."""
    limit = config.expires_seconds
    return limit is not None and (health is None or now - health.confirmed > limit)


def read_pieces(file: BinaryIO, most: int = sys.maxsize) -> bytes:
    """Up to `most` bytes. Where the kernel is not preemptible, whoever needs the core waits for a call to end."""
    pieces: list[bytes] = []
    while most > 0 and (piece := file.read(min(PIECE, most))):
        pieces.append(piece)
        most -= len(piece)
    return b"".join(pieces)


def write_pieces(file: BinaryIO, data: bytes) -> None:
    """As read_pieces()."""
    for at in range(0, len(data), PIECE):
        file.write(memoryview(data)[at : at + PIECE])


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """The file is whole or the old one; also after a power cut. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as file:
            write_pieces(file, data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def read_bounded(path: Path, largest: int) -> bytes:
    """A regular file, no link, of at most `largest` bytes: whoever may write the folder is not trusted.

    Raises FeedError, FileNotFoundError, OSError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise FeedError("not a regular file", file=str(path))
        data = read_pieces(file, largest + 1)
    if len(data) > largest:
        raise FeedError(f"more than {largest} bytes", file=str(path))
    return data


def read_set(folder: Path, *, with_times: bool = False) -> tuple[SetFeed, ...]:
    """() before anything was fetched. Raises FeedError."""
    path = folder / SET
    try:
        return decode(read_bounded(path, LARGEST), with_times=with_times)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise FeedError(f"the set cannot be read: {error.strerror}", file=str(path)) from error
    except FeedError as error:
        raise FeedError(error.message, file=str(path)) from error


def read_health(folder: Path) -> dict[str, Health]:
    """{} before anything was fetched. Raises FeedError."""
    path = folder / HEALTH
    try:
        return msgspec.json.decode(read_bounded(path, _HEALTH_LARGEST), type=dict[str, Health])
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise FeedError(f"cannot be read: {error.strerror}", file=str(path)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FeedError(f"not valid: {error}", file=str(path)) from error


class Store:
    """Lists and states of the feeds. One process writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def state(self, name: str) -> FeedState:
        """A state that cannot be read costs a fetch, no more."""
        try:
            return msgspec.json.decode((self.folder / name / "state.json").read_bytes(), type=FeedState)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return FeedState()

    def save_state(self, name: str, state: FeedState) -> None:
        write_atomically(self.folder / name / "state.json", msgspec.json.encode(state))

    def kept(self, name: str) -> bytes | None:
        """The last good copy."""
        try:
            with (self.folder / name / "list").open("rb") as file:
                return read_pieces(file)
        except OSError:
            return None

    def keep(self, name: str, data: bytes) -> None:
        write_atomically(self.folder / name / "list", data)
        self.dismiss(name)

    def quarantine(self, name: str, data: bytes) -> None:
        write_atomically(self.folder / name / "quarantine", data)

    def dismiss(self, name: str) -> None:
        """What was not believed is not what the source says any more."""
        (self.folder / name / "quarantine").unlink(missing_ok=True)

    def save_set(self, data: bytes) -> None:
        write_atomically(self.folder / SET, data)

    def save_health(self, health: dict[str, Health]) -> None:
        write_atomically(self.folder / HEALTH, msgspec.json.encode(health))
