# SPDX-License-Identifier: Apache-2.0
"""Throw-away networks of network namespaces, shared by the demonstration, the tests and the benchmarks."""

from appliance.lab.lab import Chain, Lab, have_root
from appliance.lab.namespaces import LabError, Namespace

__all__ = ["Chain", "Lab", "LabError", "Namespace", "have_root"]
