# SPDX-License-Identifier: Apache-2.0
"""acri: a Kubernetes container runtime endpoint (CRI v1) over containerd's native API."""

__version__ = "0.1.0"
