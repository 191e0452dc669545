# SPDX-License-Identifier: Apache-2.0
"""Countries and autonomous systems from a MaxMind database (MaxMind DB file format 2.0) as a plain list of networks."""

from pathlib import Path
from typing import Any

from threatfeeds.config import FeedConfig, FeedError
from threatfeeds.fetch.memory import Fetched, Memory


def fetch_maxmind(config: FeedConfig, memory: Memory) -> Fetched:
    """Reads the whole database when the file is another one than before. Raises FeedError."""
    import maxminddb

    path = Path(config.maxmind)
    try:
        status = path.stat()
        state = f"{status.st_mtime_ns}:{status.st_size}:{status.st_ino}"
        if memory.last_modified == state:
            return Fetched(None, memory)
        with maxminddb.open_database(path) as database:
            lines = [str(network) for network, record in database if _asked(config, record)]
    except OSError as error:
        raise FeedError(f"the database cannot be read: {error.strerror}", file=str(path)) from error
    except (maxminddb.InvalidDatabaseError, ValueError, RecursionError) as error:
        raise FeedError(f"this is no MaxMind database: {error}", file=str(path)) from error
    return Fetched("\n".join(lines).encode("ascii"), Memory(config.source, last_modified=state))


def _asked(config: FeedConfig, record: Any) -> bool:
    if not isinstance(record, dict):
        return False
    if config.asns:
        # MaxMind's name, then that of other publishers in the same format.
        number = record.get("autonomous_system_number", record.get("asn"))
        return number in config.asns or (isinstance(number, str) and number.removeprefix("AS") in map(str, config.asns))
    country = record.get("country")
    code = country.get("iso_code") if isinstance(country, dict) else record.get("country_code", country)
    return code in config.countries
