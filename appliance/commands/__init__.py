# SPDX-License-Identifier: Apache-2.0
"""What the `portcullis` command does, one file for each of its words but `run`."""
