"""What a run costs by arithmetic and by what was measured before: FLOPs, memory, time; no torch."""
