# SPDX-License-Identifier: Apache-2.0
"""Which release this is."""

from functools import cache
from importlib import metadata


@cache
def version() -> str:
    try:
        return metadata.version("portcullis")
    except metadata.PackageNotFoundError:
        return "(not installed)"
