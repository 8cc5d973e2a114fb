"""What pool_telemetry costs with many threads, drops and sockets; ``python -m benchmarks scale --help``."""
