"""What a ``pool-telemetry run`` was asked for, as its processes know it: by a variable.

The start-up hook runs this, as it does _first_pool.py: it is written for any Python 3.
"""

import os

#: The variable by which the processes of a run know of it.
VARIABLE = "POOL_TELEMETRY_RUN"


class Plan:
    """What a run was asked for.

    Args:
        program: the number of the process that prints the report.
        folder: where the other processes leave word for it; its own to make, and to remove.
        every: seconds between reports, ``None`` for one at the end only.
        output: the file to keep the report in.
    """

    def __init__(self, program: int, folder: str, every: "float | None", output: "str | None") -> None:
        self.program = program
        self.folder = folder
        self.every = every
        self.output = output

    def __str__(self) -> str:
        """As the variable has it."""
        every = "" if self.every is None else repr(self.every)
        return ":".join(map(_quoted, (str(self.program), self.folder, every, self.output or "")))

    @classmethod
    def parse(cls, text: str) -> "Plan | None":
        """The plan of which this is the text; of any other text none."""
        try:
            program, folder, every, output = map(_unquoted, text.split(":"))
            return cls(int(program), folder, float(every) if every else None, output or None)
        except ValueError:
            return None

    def is_of_program(self) -> bool:
        """Whether this is the process that prints the report."""
        return os.getpid() == self.program


def _quoted(text: str) -> str:
    return text.replace("%", "%25").replace(":", "%3A")


def _unquoted(text: str) -> str:
    return text.replace("%3A", ":").replace("%25", "%")
