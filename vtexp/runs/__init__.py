"""From a plan to a result: planned runs, run folders, jobs of runs, ranks."""
