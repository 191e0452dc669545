# SPDX-License-Identifier: Apache-2.0
"""The secret of a feed → the header that carries it."""

import base64
import os
from pathlib import Path

from threatfeeds.config import FeedConfig, FeedError

_LONGEST = 16384  # bytes


def auth_headers(config: FeedConfig) -> dict[str, str]:
    """{} without a secret. The secret is read at every use: systemd and people replace it. Raises FeedError."""
    if config.secret_credential:
        folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
        path = Path(folder) / config.secret_credential
        if not folder or "/" in config.secret_credential:
            why = "no credential of this name: see LoadCredential=; portcullis-feeds.service has it, a command has not"
            raise FeedError(why, field="secret_credential")
    elif config.secret_file:
        path = Path(config.secret_file)
    else:
        return {}
    try:
        with path.open("rb") as file:
            secret = file.read(_LONGEST).decode("utf-8").strip()
    except OSError as error:
        raise FeedError(f"the secret cannot be read: {error.strerror}", file=str(path)) from error
    except UnicodeDecodeError as error:
        raise FeedError("the secret is not text", file=str(path)) from error
    if not secret or "\n" in secret or "\r" in secret:
        raise FeedError("the secret is not one line of text", file=str(path))
    if config.auth_user:
        pair = base64.b64encode(f"{config.auth_user}:{secret}".encode()).decode("ascii")
        return {"Authorization": f"Basic {pair}"}
    if config.auth_header:
        return {config.auth_header: secret}
    # MISP takes its key without a scheme.
    return {"Authorization": secret if config.kind == "misp" else f"Bearer {secret}"}
