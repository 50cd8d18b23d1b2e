"""The commands: launch, report, status, wait, resume, cancel, publish, datasets."""
