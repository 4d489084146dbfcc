# SPDX-License-Identifier: Apache-2.0
"""acri embedded: a private containerd and acri under one directory, for `acri up`, demos and test suites.

place       what lies where below the directory, and the names on the host that belong to it
rendezvous  how several at once on a host keep out of each other's way
embedded    starts, watches and ends the two; `child`, `containerd` and `settings` are its parts
sweep       finds and removes what one that was killed left behind; `process_table` and `firewall` look for it
cri         a client of the socket, as a kubelet is one
image, registry   the test image, made from busybox, and the registry that serves it from memory
"""
