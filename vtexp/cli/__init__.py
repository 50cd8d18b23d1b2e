"""The commands: launch, report, sweeps, status, wait, resume, cancel, publish, datasets."""
