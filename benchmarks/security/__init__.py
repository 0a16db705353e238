"""The security drill: attempts on a running cluster, each with what must come of it.

A module holds one group of attempts and a function `cases`, which makes them for a cluster. The same cases are a
benchmark's table (`argus bench security`) and tests (tests/e2e/test_security.py).
"""
