# SPDX-License-Identifier: Apache-2.0
"""The C layout of ``include/fastpath.h`` in pure Python: structs, constants, enums.

Usable without the C extension, so that the compiler of policies needs no build. A test holds every size,
offset and value against the extension. Structs are in native order and packed as the C compiler does
(no hidden padding: the header names every reserved byte, ``struct`` skips them with ``x``).
"""

import struct
from enum import IntEnum, IntFlag

API_VERSION = 1
NONE = 0xFFFFFFFF
WORLD = 0
QUERY_NO_PORTS = 0x01
QUERY_PRE_DNAT = 0x02
QUEUE_NONE = 0xFFFF

MARK_TO_QUEUE = 0x80
MARK_REPLY = 0x40
MARK_NO_SAVE = 0x20
MARK_PREVIOUS_SHIFT = 3
MARK_PREVIOUS = 0x18
MARK_NEW = 0x04
MARK_PRE_DNAT_BITS = 0x38
MARK_PRE_DNAT_NEW = 0x08
MARK_PRE_DNAT_ALLOWED = 0x10
MARK_PRE_DNAT_DENIED = 0x18
MARK_PRE_DNAT_UNKNOWN = 0x30
MARK_PRE_DNAT_ONCE = 0x28
MARK_SLOW_REPLY = 0x80
MARK_GENERATION_SHIFT = 2
MARK_GENERATION = 0x7C
MARK_FATE = 0x03
MARK_DOWN_RESET = 0x80
GENERATION_MIN = 1
GENERATION_MAX = 31


class Fate(IntEnum):
    """What the connection mark says of a flow."""

    NONE = 0
    ALLOW = 1
    DROP = 2
    REJECT = 3


class Hook(IntEnum):
    """Netfilter hooks, numbered as NF_INET_*."""

    INPUT = 1
    FORWARD = 2
    OUTPUT = 3


class Verdict(IntEnum):
    """What a worker or the policy says of a packet."""

    ALLOW = 0
    DROP = 1
    REJECT = 2
    INSPECT = 3


class Action(IntEnum):
    """Action of a rule, or of a chain in which nothing matched."""

    ALLOW = 0
    DENY = 1
    REJECT = 2
    PASS = 3
    LOG = 4
    NEXT = 5


class RuleFlag(IntFlag):
    """``flags`` of :data:`RULE`."""

    INSPECT = 0x01
    NOT_PROTO = 0x02
    PROTO = 0x04
    ICMP_TYPE = 0x08
    ICMP_CODE = 0x10
    NOT_ICMP_TYPE = 0x20
    NOT_ICMP_CODE = 0x40
    V4 = 0x80
    V6 = 0x100


class Failure(IntEnum):
    """Index of ``failure_action`` and of the ``failures`` counters."""

    DECODE_ERROR = 0
    TRUNCATED_PACKET = 1
    MIDSTREAM_FLOW = 2
    SPOOFED_SOURCE = 3
    INSPECTOR_DOWN = 4
    INSPECTOR_OVERLOAD = 5
    INSPECTOR_RESTART = 6


FAILURE_POLICY = 0xFF


class EventKind(IntEnum):
    """Why an event was written."""

    FLOW = 1
    REDECIDED = 2
    PACKET = 3
    FAILURE = 4
    REPEATED = 5


REPEATS_TOLD = 4  # events REPEATED of one flow within a second, at most


class EventFlag(IntFlag):
    """``flags`` of :data:`EVENT`."""

    OBSERVED = 0x01
    REPLY = 0x02
    MIDSTREAM = 0x04
    LOOK_ONLY = 0x08
    RELATED = 0x10
    PRE_DNAT = 0x20


# addr, len, identity, ifindex
PREFIX_ENTRY = struct.Struct("=16sB3xII")
# predicate, first, last, proto
PORT_TERM = struct.Struct("=IHHB3x")
# first, count
PORT_TERMS = struct.Struct("=II")
# id, source, destination, pass_to, sport (first, count), not_sport, dport, not_dport, flags, action, proto,
# not_proto, icmp_type, icmp_code, not_icmp_type, not_icmp_code
RULE = struct.Struct("=IIII8IHBBBBBBB3x")
# first, count, default_rule, default_action
CHAIN = struct.Struct("=IIIB3x")
# ingress, egress, staged_ingress, staged_egress
IDENTITY_CHAINS = struct.Struct("=4I")
# ifindex, host_ingress, host_egress, forward_ingress, forward_egress, then the same four staged
INTERFACE_CHAINS = struct.Struct("=9I")
# source, destination, iif, oif, sport, dport, proto, family, icmp_type, icmp_code, hook, flags
QUERY = struct.Struct("=4IHHBBBBBB2xI")
# verdict, staged_verdict, governed, rule, staged_rule
DECISION = struct.Struct("=BBBxII")
# chain, rule, action
TRACE_STEP = struct.Struct("=IIB3x")
# in the order of struct fp_event
EVENT = struct.Struct("=QQ16s16sHHBBBBIIIIIIIIBBBBBBBBHHI24x")
