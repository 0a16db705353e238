"""Capacity planning: what models cost on a kind of hardware, what a cluster would do, and which cluster is cheapest."""
