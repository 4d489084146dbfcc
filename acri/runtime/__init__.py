# SPDX-License-Identifier: Apache-2.0
"""The operations of a container runtime, one file each: who looks for what happens at StopContainer reads
`container_stop.py`. Everything here works on model values and on a `Node`, and knows no wire format.
"""
