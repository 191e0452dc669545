# SPDX-License-Identifier: Apache-2.0
"""Events for programs (EVE JSON) and for people (the console)."""

from appliance.events.eve import flow_records, inspection_records, stats_record
from appliance.events.names import Names
from appliance.events.sink import EventsError, EventSink

__all__ = ["EventSink", "EventsError", "Names", "flow_records", "inspection_records", "stats_record"]
