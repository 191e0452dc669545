# SPDX-License-Identifier: Apache-2.0
"""The kernel side: three chains per hook, the queue rule, and the fates in the connection marks."""

from appliance.netfilter.backend import NetfilterError
from appliance.netfilter.manager import Netfilter
from appliance.netfilter.marks import Fate, MarkLayout
from appliance.netfilter.preflight import Preflight
from appliance.netfilter.ruleset import NetfilterSettings
from appliance.netfilter.watch import RulesetWatch

__all__ = ["Fate", "MarkLayout", "Netfilter", "NetfilterError", "NetfilterSettings", "Preflight", "RulesetWatch"]
