# SPDX-License-Identifier: Apache-2.0
"""The slow path: inspector processes that look into flows which policy allows.

`pool` supervises them and is all that a service needs (`from appliance.inspection.pool import InspectorPool`);
`worker` is the child process; `inspector` decides, without I/O, from streams, protocols, names and signatures.
"""
