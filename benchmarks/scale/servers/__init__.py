"""What the workers connect to, by processes of their own: ``python -m benchmarks.scale.servers.NAME`` prints a port."""
