# SPDX-License-Identifier: Apache-2.0
"""`python -m appliance`: the same as the `portcullis` command."""

import sys

from appliance.cli import main

if __name__ == "__main__":
    sys.exit(main())
