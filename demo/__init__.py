"""Demo data and demo checkpoints: everything here knows one small synthetic world and nothing else."""
