"""A discrete-event simulation of a cluster: what requests would meet, in a thousandth of the time and less."""

from benchmarks.capacity.simulator.run import load, simulate

__all__ = ["load", "simulate"]
