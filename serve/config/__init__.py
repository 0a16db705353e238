"""Typed configuration: the cluster file, its profiles, and the checks that need more than one section.

A replica is given its own model's section only, and imports what it needs of this: nothing is imported here.
"""
