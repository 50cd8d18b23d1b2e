"""Set once SLURM has signalled this process to stop; later errors are not run failures."""

import threading

#: Set by the signal of a time limit or a preemption; from then on any error ends the process.
preempted = threading.Event()
