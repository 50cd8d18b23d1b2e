"""Vision-token budgets by arithmetic: tilings, the knobs, token counts; no torch."""
