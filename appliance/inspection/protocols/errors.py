# SPDX-License-Identifier: Apache-2.0
from fastpath.errors import PortcullisError


class ParseError(PortcullisError):
    """The bytes do not follow the protocol that they were taken for."""
