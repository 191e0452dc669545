# SPDX-License-Identifier: Apache-2.0
"""Real clients in the client namespace, and a word for what each of them saw."""

import json
import re
import socket
import time

from appliance.lab.namespaces import Namespace

ANSWERED = "answered"
NO_ANSWER = "no answer"
REFUSED = "refused at once"
SILENCED = "connected, then silence"
CUT = "connected, then cut"

_AT_ONCE = 0.8  # seconds: less than the first retransmission of a SYN
_PATIENCE = 2.0  # seconds


def curl(client: Namespace, url: str, *options: str, patience: float = _PATIENCE) -> str:
    """GET with curl."""
    # A port of ours is known once TCP is connected; time_connect of https stays 0 until the handshake is done.
    form = '{"connected": %{local_port}, "total": %{time_total}}'
    done = client.run(
        [
            "curl",
            "--globoff",
            "--silent",
            "--insecure",
            "--output",
            "/dev/null",
            "--max-time",
            str(patience),
            "--write-out",
            form,
            *options,
            url,
        ],
        timeout=patience + 10,
        check=False,
    )
    seen = json.loads(done.stdout)
    if done.returncode == 0:
        return ANSWERED
    if done.returncode == 28:
        return SILENCED if seen["connected"] > 0 else NO_ANSWER
    if done.returncode == 7 and seen["connected"] == 0:
        return REFUSED if seen["total"] < _AT_ONCE else f"refused after {seen['total']:.1f} s"
    return CUT if seen["connected"] > 0 else f"curl {done.returncode}"


def ping(client: Namespace, address: str, count: int = 3) -> str:
    """ICMP or ICMPv6 echo, five a second."""
    done = client.run(
        ["ping", "-n", "-q", "-c", str(count), "-i", "0.2", "-W", "1", address], timeout=count + 10, check=False
    )
    found = re.search(r"(\d+) received", done.stdout)
    received = int(found[1]) if found else 0
    if received == count:
        return ANSWERED
    return NO_ANSWER if received == 0 else f"{received} of {count} answered"


def udp(client: Namespace, address: str, port: int, count: int = 5) -> str:
    """Datagrams of one socket, each sent when the one before was answered or given up."""
    with client.enter():
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    received = 0
    with sock:
        sock.settimeout(0.3)
        sock.connect((address, port))
        for number in range(count):
            word = b"word %d" % number
            try:
                sock.send(word)
                received += sock.recv(64) == word
            except TimeoutError:
                continue
            except ConnectionRefusedError:
                return REFUSED
    if received == count:
        return ANSWERED
    return NO_ANSWER if received == 0 else f"{received} of {count} answered"


class Talk:
    """An open TCP connection to an echo server."""

    def __init__(self, client: Namespace, address: str, port: int) -> None:
        with client.enter():
            self._sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        self._sock.settimeout(_PATIENCE)
        self._sock.connect((address, port))

    def exchange(self, patience: float = _PATIENCE) -> bool:
        """True when a word came back."""
        self._sock.settimeout(patience)
        try:
            self._sock.sendall(b"word")
            return len(self._sock.recv(64)) > 0
        except OSError:
            return False

    def until_silent(self, longest: float) -> float | None:
        """Exchanges words until none comes back for a while. Seconds until the last that did, None if all came."""
        start = last = time.monotonic()
        while time.monotonic() - start < longest:
            if not self.exchange(1.5):
                return last - start
            last = time.monotonic()
            time.sleep(0.01)
        return None

    def close(self) -> None:
        self._sock.close()
