# SPDX-License-Identifier: Apache-2.0
"""Domain policy: the addresses that DNS gives to the names in policies and network sets.

query ─▶ resolver                                     inspector: PendingQueries (trust)
client ◀─ parked ◀── answer ◀── resolver              inspector: resolution() ▸ Parking
             │  Answer                                 ▲
             ▼                                         │ Release
control process: NameTable ▸ LearnedNames ▸ identity map in the engine
"""
