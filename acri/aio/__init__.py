# SPDX-License-Identifier: Apache-2.0
"""Everything that makes a task or a thread: operations, thread pools, programs, FIFOs, notifications.

No other room calls `create_task` or starts a thread, so who looks for "what can still be running" looks here.
"""
