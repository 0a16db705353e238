"""Requests that outlast a deadline: submitted, run in the background by the router replicas, and asked for later."""
