# SPDX-License-Identifier: Apache-2.0
"""The running appliance: sources in, snapshots out, events and counters to the operator."""
