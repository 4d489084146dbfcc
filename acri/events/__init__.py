# SPDX-License-Identifier: Apache-2.0
"""containerd's events, turned into state changes."""
