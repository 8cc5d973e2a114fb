"""What pool_telemetry costs, beside its peers and beside wrappers that do nothing; ``python -m benchmarks --help``."""

import os
import random

#: Set for a process whose memory is to be laid out by chance: by this seed.
LAYOUT = "BENCHMARKS_LAYOUT"


def _fragment(seed: str) -> list[bytes]:
    # Where objects lie decides which of them fall out of the processor's caches together. Left alone, it is the same in
    # each process of a variant, and gives it a microsecond more or less that is none of its own.
    dice = random.Random(seed)
    blocks = [bytes(dice.randrange(16, 480)) for _ in range(20_000)]
    dice.shuffle(blocks)
    return blocks[dice.randrange(5_000, 15_000) :]


if LAYOUT in os.environ:  # before anything else is imported
    _fragments = _fragment(os.environ[LAYOUT])
