"""Power cuts at random moments: `python -m tests.chaos --power-cuts 50` makes many more."""

from pathlib import Path

import pytest

from tests.chaos.power import cut_power


@pytest.mark.root(reason="it mounts a file system to cut its power")
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_power_cut_takes_nothing_that_was_answered_and_of_stored_records_the_last_commit_interval_only(
    tmp_path: Path, seed: int
) -> None:
    cut = await cut_power(seed, tmp_path)
    assert cut.answered > 0
    assert cut.failures() == [], f"seed {seed}: {cut}"
