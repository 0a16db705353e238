"""What load tests send: one Locust user a workload."""
