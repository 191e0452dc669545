# SPDX-License-Identifier: Apache-2.0
"""`portcullis feeds add` and `remove`: entries of the running service. Imports little: it is to be quick."""

import argparse
import json
from pathlib import Path
from typing import Any

from appliance.config import load_config
from appliance.control.client import ask


def run_local(arguments: argparse.Namespace) -> int:
    """1 where the allowlist keeps all of an entry from being enforced."""
    config = load_config(arguments.config)
    request: dict[str, Any] = {"do": f"feeds_{arguments.feeds_command}", "entry": arguments.entry}
    request["feed"] = arguments.feed
    if arguments.feeds_command == "add":
        request |= {"for": arguments.duration, "reason": arguments.reason}
    answer = ask(Path(config.control.socket), request)
    if arguments.json:
        print(json.dumps(answer))
    else:
        done = "listed" if arguments.feeds_command == "add" else "no longer listed"
        print(f"{answer['entry']}: {done} in the feed {answer['feed']}, after {1000 * answer['seconds']:.0f} ms")
        for why in answer.get("allowed", ()):
            print(f"{answer['entry']}: the allowlist wins: {why}")
    return 1 if any("the rest" not in why for why in answer.get("allowed", ())) else 0
