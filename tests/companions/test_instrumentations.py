"""Other instrumentations beside us: each tells of what it tells alone, whoever comes or goes first."""

from __future__ import annotations

import pytest

from tests.companions.instrumentations import OTHERS, put_in_and_take_out
from tests.live.apart import run_apart


@pytest.mark.parametrize("are_we_first_out", [True, False], ids=["first out", "last out"])
@pytest.mark.parametrize("are_we_first_in", [True, False], ids=["first in", "last in"])
@pytest.mark.parametrize("name", OTHERS)
def test_each_tells_what_it_tells_alone_in_each_order(name: str, are_we_first_in: bool, are_we_first_out: bool) -> None:
    package, _, _ = OTHERS[name]
    pytest.importorskip(package, reason=f"missing: {package}")
    run_apart(put_in_and_take_out, name, are_we_first_in, are_we_first_out)
