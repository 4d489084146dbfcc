# SPDX-License-Identifier: Apache-2.0
"""Container logs: what a container writes to stdout and stderr, in the file that the kubelet asked for.

`format` knows the lines (bytes in, bytes out), `mark` remembers over a kill how far the copy was, `file` owns the log
file, `scratch` looks into a FIFO without emptying it, `copier` moves a block from there into the file without losing
or doubling a byte, `pump` runs all that on the loop.
"""
