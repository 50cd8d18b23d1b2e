"""What a run costs, by arithmetic and earlier runs: FLOPs, memory, time; no torch."""
