# SPDX-License-Identifier: Apache-2.0
"""What the service writes itself: flows and a status line on standard output, words about itself on standard error."""

import sys


class Terminal:
    """Keeps the status line, which stays at the bottom of a terminal, apart from everything else."""

    def __init__(self) -> None:
        self.interactive = sys.stdout.isatty()
        self._shown = False

    def say(self, text: str) -> None:
        """A line about the service itself."""
        self.clear()
        print(f"portcullis: {text}", file=sys.stderr, flush=True)

    def line(self, text: str) -> None:
        self.clear()
        print(text, flush=True)

    def status(self, text: str) -> None:
        """Replaces the status line; a terminal only."""
        sys.stdout.write(f"\r\x1b[K{text}")
        sys.stdout.flush()
        self._shown = True

    def clear(self) -> None:
        if self._shown:
            sys.stdout.write("\r\x1b[K")
            sys.stdout.flush()
            self._shown = False
