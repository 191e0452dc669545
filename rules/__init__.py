# SPDX-License-Identifier: Apache-2.0
"""Policy and signature languages: text in, validated and compiled objects out. No I/O."""
