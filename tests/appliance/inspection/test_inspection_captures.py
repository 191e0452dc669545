# SPDX-License-Identifier: Apache-2.0
"""Real captures through the inspector: nothing breaks inside, and what is known to be there is found."""

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import dpkt
import pytest

from appliance.inspection.flows import flow_key
from appliance.inspection.inspector import Inspector
from appliance.inspection.messages import InspectionRuleset, InspectorSettings, SignatureSource
from appliance.inspection.packets import DecodeError, parse_packet
from appliance.inspection.ruleset import compile_ruleset

MOST = 6000  # packets of a capture
SIGNATURE = 'alert tcp any any -> any any (msg:"any payload"; content:"|00|"; sid:1;)\n'


def packets(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        reader = dpkt.pcap.UniversalReader(file)
        for _, frame in itertools.islice(reader, MOST):
            if frame[12:14] in (b"\x08\x00", b"\x86\xdd"):
                yield frame[14:]


@pytest.mark.parametrize(
    ("name", "kind"), [("http-packets.pcap", "http"), ("tls2.pcap", "tls"), ("many-protocols.pcap", "dns")]
)
def test_capture(corpora: Path, name: str, kind: str) -> None:
    ruleset = compile_ruleset(InspectionRuleset(version=1, signatures=(SignatureSource("r", SIGNATURE),)))
    inspector = Inspector(InspectorSettings(), ruleset)
    seen = set()
    told: Counter[str] = Counter()
    for number, data in enumerate(packets(corpora / "pcaps" / name)):
        try:
            packet = parse_packet(data)
        except DecodeError:
            inspector.packet(data, reply=False, generation=1, now=float(number))
            continue
        reply = flow_key(packet, True) in seen
        if not reply:
            seen.add(flow_key(packet, False))
        verdict = inspector.packet(data, reply=reply, generation=1, now=number / 1000)
        told.update(event.kind for event in verdict.events)
    assert told[kind] > 10
    assert inspector.failures["inspector_error"] == 0
