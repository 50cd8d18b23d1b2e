"""Jobs of a sweep: prepared, handed to SLURM or to processes, watched, compared at the end."""
