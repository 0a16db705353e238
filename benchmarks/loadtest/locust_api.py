"""What we use of Locust, imported without its side effect.

Importing Locust makes the whole process cooperative (`gevent.monkey.patch_all`). That is right for a process that
Locust's own command started, where it has happened before this module is reached, and wrong for any other: the command
line, a test, or a tool that only wants to know a workload.
"""

from __future__ import annotations

import os

from gevent import monkey

SKIP_PATCH = "LOCUST_SKIP_MONKEY_PATCH"
_spare = not monkey.is_module_patched("socket") and SKIP_PATCH not in os.environ
if _spare:
    os.environ[SKIP_PATCH] = "1"
try:
    from locust import FastHttpUser, LoadTestShape, events, task
    from locust.contrib.fasthttp import FastHttpSession
    from locust.runners import LocalRunner, MasterRunner, WorkerRunner
finally:
    if _spare:
        del os.environ[SKIP_PATCH]

__all__ = [
    "SKIP_PATCH",
    "FastHttpSession",
    "FastHttpUser",
    "LoadTestShape",
    "LocalRunner",
    "MasterRunner",
    "WorkerRunner",
    "events",
    "task",
]
