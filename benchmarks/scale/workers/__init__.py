"""What is measured, each part in processes of its own: ``python -m benchmarks.scale.workers.NAME`` answers lines."""
