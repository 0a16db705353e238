"""When requests come: arrival processes and recorded traces, for load tests and for the simulator alike."""
