"""Load tests with Locust: open-loop users, load shapes, and the record and report of a run."""
