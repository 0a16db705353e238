"""A Ray cluster of several nodes on one machine: where replicas are placed, and when nodes and replicas are added."""
