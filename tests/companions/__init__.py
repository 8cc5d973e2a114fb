"""Beside us in one process: other instrumentations, clients built on urllib3, and what patches Python itself."""
