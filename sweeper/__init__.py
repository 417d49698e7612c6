"""The sweep service: search spaces, scheduling, tracking and the command line."""

__version__ = "0.1.0"
