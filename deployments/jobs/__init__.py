"""Requests that outlast a deadline: their store, and what travels to and from it."""
