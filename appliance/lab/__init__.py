# SPDX-License-Identifier: Apache-2.0
"""Throw-away networks of network namespaces, shared by the demonstration, the tests and the benchmarks."""

from appliance.lab.namespaces import Chain, Lab, LabError, Namespace, have_root

__all__ = ["Chain", "Lab", "LabError", "Namespace", "have_root"]
