# SPDX-License-Identifier: Apache-2.0
"""Makes the Python binding out of the headers in ``include/``, so that the contract is written once.

Run by meson through ``python -m cffi.gen_src exec-python``; not installed.
"""

import re
from pathlib import Path

from cffi import FFI

HEADERS = [Path(__file__).parent / "include" / name for name in ("fastpath.h", "fastpath_reader.h")]
_CONSTANT = re.compile(r"#define\s+(\w+)\s+(?:0x[0-9a-fA-F]+|\d+)[uU]?\s*$")


def declarations(header: str) -> str:
    """The header as cffi reads it: no comments, no preprocessor, numeric constants left to the C compiler."""
    text = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    lines = []
    for line in text.splitlines():
        if line.startswith("#"):
            if match := _CONSTANT.match(line):
                lines.append(f"#define {match[1]} ...")
        else:
            lines.append(line)
    return "\n".join(lines)


ffibuilder = FFI()
for path in HEADERS:
    ffibuilder.cdef(declarations(path.read_text(encoding="utf-8")))
ffibuilder.set_source("fastpath._fastpath", "".join(f'#include "{path.name}"\n' for path in HEADERS))
