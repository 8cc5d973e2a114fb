"""``python -m pool_telemetry``, the same as the command ``pool-telemetry``."""

from .cli import main

main()
