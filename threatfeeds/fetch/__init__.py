# SPDX-License-Identifier: Apache-2.0
"""Fetching of feeds: the part of this package that talks to the network. It blocks: run it in threads."""
