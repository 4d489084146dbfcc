# SPDX-License-Identifier: Apache-2.0
"""CRI's two services. Handlers translate: wire request → one call into `runtime` or `images` → wire answer."""
