# SPDX-License-Identifier: Apache-2.0
"""How much longer than on a machine of today a test may take here: PORTCULLIS_LAB_PATIENCE, 1 where it is not set."""

import os

PATIENCE = float(os.environ.get("PORTCULLIS_LAB_PATIENCE", "1"))
