# SPDX-License-Identifier: Apache-2.0
"""Values that acri works with: what a kubelet asked for, what a sandbox, container and image are, and their records.

Field names of the configuration classes are CRI's, so that `api.convert` and `records` translate by name. Nothing here
does I/O.
"""
