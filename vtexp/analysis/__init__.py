"""From the results of sweeps to findings; no torch, no planner."""
