"""Running a cluster file on this machine: Ray, its tuned ingress, and what is needed to find and stop them again."""
