# SPDX-License-Identifier: Apache-2.0
"""Measurements in network namespaces, against peers."""
