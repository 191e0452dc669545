# SPDX-License-Identifier: Apache-2.0
"""TOML text to Config. Errors name file, line, key and what was expected."""

import socket
from pathlib import Path

import msgspec

from appliance.config.model import Config, parse_listen, parse_port, parse_ports
from fastpath.errors import PortcullisError
from threatfeeds.allowlist import parse_allowed
from threatfeeds.settings import SettingsReader

DEFAULT_PATH = Path("/etc/portcullis/portcullis.toml")


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
    reader = SettingsReader(text, file, ConfigError)
    config = reader.read(Config)
    _check_forms(config, reader)
    _check_queues(config, reader)
    return msgspec.structs.replace(
        config,
        node=config.node or hostname or socket.gethostname(),
        failures=config.failures.resolved(config.mode),
    )


def _check_forms(config: Config, reader: SettingsReader) -> None:
    for path, entries, parse in (
        (("failsafe", "inbound"), config.failsafe.inbound, parse_port),
        (("failsafe", "outbound"), config.failsafe.outbound, parse_port),
        (("policy", "inspect_ports"), config.policy.inspect_ports, parse_ports),
        (("inspection", "tls_ports"), config.inspection.tls_ports, parse_ports),
        (("feeds", "allow"), config.feeds.allow, parse_allowed),
    ):
        for entry in entries:
            reader.form(path, entry, parse)
    if config.metrics.listen:
        reader.form(("metrics", "listen"), config.metrics.listen, parse_listen)
    mask = config.mark.mask
    if mask // (mask & -mask) != 0xFF:
        raise reader.error(("mark", "mask"), f"expected eight adjacent bits such as 0xff000000, got {mask:#x}")


def _check_queues(config: Config, reader: SettingsReader) -> None:
    """Numbers that collide. A count of 0 is known only on the machine: it counts as one queue here."""
    queues, inspectors = config.queues, config.inspection.inspectors
    count = queues.workers(1)
    for key, first, size in (("first", queues.first, count), ("slow_first", queues.slow_first, inspectors)):
        if first + size > 65536:
            raise reader.error(("queues", key), f"queue {first} and {size - 1} more end beyond number 65535")
    fast = range(queues.first, queues.first + count)
    slow = range(queues.slow_first, queues.slow_first + inspectors)
    if queues.look in fast or queues.look in slow:
        raise reader.error(("queues", "look"), f"queue {queues.look} is already one of the other queues")
    if fast.start < slow.stop and slow.start < fast.stop:
        taken = max(fast.start, slow.start)
        raise reader.error(("queues", "slow_first"), f"workers and inspectors would share queue {taken}")
