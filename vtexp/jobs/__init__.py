"""Jobs of a sweep on SLURM or local processes: submit, watch, finish."""
