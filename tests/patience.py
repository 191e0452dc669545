# SPDX-License-Identifier: Apache-2.0
"""Tests on machines that are much slower than those of today; both are 1 where they are not set.

PORTCULLIS_LAB_PATIENCE  how much longer a test may take
PORTCULLIS_LAB_LOAD      share of the load, in tests that prove what happens under load and not how much of it there is
"""

import os

PATIENCE = float(os.environ.get("PORTCULLIS_LAB_PATIENCE", "1"))
LOAD = float(os.environ.get("PORTCULLIS_LAB_LOAD", "1"))
