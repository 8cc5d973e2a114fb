"""What pool_telemetry costs, beside its peers and beside wrappers that do nothing; ``python -m benchmarks --help``."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples"))  # where the servers are
