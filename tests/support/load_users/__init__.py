"""Locust users for tests of the load engine, one a file as workloads have them."""
