"""Cascades: steps over models and providers, a decision after each, and the trace of what happened."""
