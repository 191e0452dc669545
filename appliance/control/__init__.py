# SPDX-License-Identifier: Apache-2.0
"""The running service over its Unix socket: one JSON object a line each way.

    {"do": "status"}                                → {"ok": true, ...}
    {"do": "explain", "question": {...}}            → {"ok": true, "verdict": ..., "staged": ..., "trace": [...]}
    {"do": "apply", "files": {...}, "confirm": 60}  → {"ok": true, ...}
    anything that fails                             → {"ok": false, "error": "file:line: field: message"}

Whoever may open the socket (root: mode 0600) may do all of it.
"""
