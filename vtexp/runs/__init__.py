"""From a plan to a result: planning, running, run folders, records, ranks."""
