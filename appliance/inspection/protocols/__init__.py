# SPDX-License-Identifier: Apache-2.0
"""Application protocols, sans-IO: bytes in order go in, frozen events come out."""
