"""The command line and the one-machine supervisor.

It starts processes and reads Redis; it imports no process's inside.
"""

__version__ = "0.1.0"
