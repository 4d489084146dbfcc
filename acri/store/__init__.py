# SPDX-License-Identifier: Apache-2.0
"""What acri knows, in memory only: an index over containerd's objects, rebuilt from them on start-up."""

from acri.store.index import Entry, Store

__all__ = ["Entry", "Store"]
