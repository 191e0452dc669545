# SPDX-License-Identifier: Apache-2.0
"""Peer: the least that a NetfilterQueue program can do. Accepts every packet of one queue, fail-closed.

    netfilterqueue_accept.py QUEUE
"""

import contextlib
import signal
import sys

from netfilterqueue import COPY_PACKET, NetfilterQueue


def accept(packet: object) -> None:
    packet.accept()  # type: ignore[attr-defined]


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    queue = NetfilterQueue()
    # 128 bytes: headers only, as accept_loop and the fastpath copy; 16 MiB of socket buffer as theirs.
    queue.bind(int(sys.argv[1]), accept, max_len=16384, mode=COPY_PACKET, range=128, sock_len=16 << 20)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            queue.run()
    finally:
        queue.unbind()


if __name__ == "__main__":
    main()
