# SPDX-License-Identifier: Apache-2.0
"""CNI: puts a pod's network namespace on the cluster's network, and takes it off again.

The Container Network Interface is a protocol of executables: a JSON configuration on stdin, parameters in the
environment, a JSON result on stdout (spec 1.1.0, https://www.cni.dev/docs/spec). This room is a complete runtime side
of it. `network.Networks` is what the rest of acri uses; `config`, `result` and `attachment` are sans-I/O.
"""
