# SPDX-License-Identifier: Apache-2.0
"""The version of the runtime specification that acri writes: the oldest that has all it uses (rro, errnoRet)."""

OCI_VERSION = "1.1.0"
