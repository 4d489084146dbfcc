# SPDX-License-Identifier: Apache-2.0
"""containerd's native gRPC API as plain values: one module per service, `client.Containerd` over all of them.

    runtime, images, events ─▶ client ─┬─ containers tasks snapshots content diff images leases events … (services)
                                       └─ calls (namespace, lease, deadline, retry) ─▶ rpc.Channel ─▶ containerd

Works with containerd 1.6, 1.7 and 2.x. Nothing generated leaves this room: arguments and results are the frozen
dataclasses of `types`, times are int nanoseconds since the epoch, errors are `acri.errors`.
"""
