# SPDX-License-Identifier: Apache-2.0
"""Names of local users: who owns the socket behind a flow that this machine began."""

import functools
import pwd

REMEMBERED = 4096


@functools.lru_cache(maxsize=REMEMBERED)
def user_name(uid: int) -> str:
    """Login name of a user; "" when there is none. Asked of the system once for each user."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return ""
