"""vtexp: how many vision tokens does a task need, and what do they cost?"""

__version__ = "0.1.0"
