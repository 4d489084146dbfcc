# SPDX-License-Identifier: Apache-2.0
"""The OCI runtime spec of a container: values in, a JSON-ready dict out.

Nothing here does I/O or asks the kernel. Whatever has to be looked up first (the image's /etc/passwd, symlinks of mount
sources, device numbers, a seccomp profile's bytes) the caller looks up and hands in; `spec.SpecInputs` lists it all.
So every shape of container is a golden test, and `build` may run on the event loop.

References:
    OCI runtime-spec 1.1, config.md and config-linux.md; CRI v1 (api.proto); where both leave room, containerd's plugin.
"""
