# SPDX-License-Identifier: Apache-2.0
"""The host: everything acri asks of the Linux kernel itself.

Namespaces and their pins, the holder (PID 1 of a shared PID namespace), mounts, cgroups, sysctls, and what this
machine can do. All of it is synchronous and may block: callers above run it in threads (`acri.aio`), and whatever
changes a namespace in a fresh thread that ends with the deed. System calls go through one interface, `kernel.Kernel`.
"""
