"""Whether SLURM takes this process away, so that nothing that it meets is a run's failure."""

import threading

#: Set from the signal of a time limit or a preemption on; what is raised then ends the process.
preempted = threading.Event()
