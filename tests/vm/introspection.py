# SPDX-License-Identifier: Apache-2.0
"""A program that says what it was given, as JSON, and ends with the status that its first argument names."""

import json
import os
import signal
import sys
from pathlib import Path


def seen() -> dict[str, object]:
    return {
        "argv": sys.argv[1:],
        "orig_argv": sys.orig_argv,
        "environment": {name: os.environ.get(name) for name in ("LAB", "PATH", "PYTHONPATH")},
        "cwd": str(Path.cwd()),
        "stdin": sys.stdin.read(),
        "descriptors": sorted(path.name for path in Path("/proc/self/fd").iterdir() if path.exists()),
        "network": str(Path("/proc/self/ns/net").readlink()),
        "links": sorted(path.name for path in Path("/sys/class/net").iterdir()),
        "signals": {number.name: str(signal.getsignal(number)) for number in signal.Signals},
        "blocked": [number.name for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
        "main": __name__,
    }


if __name__ == "__main__":
    print(json.dumps(seen()))
    print("an error", file=sys.stderr)
    sys.exit(int(sys.argv[1]))
