"""Random courses: whatever happens to an agent, nothing is lost, told under two names, or out of order.

`python -m tests.chaos --seeds 50` plays many more.
"""

from pathlib import Path

import pytest

from tests.chaos.course import draw
from tests.chaos.judge import judge
from tests.chaos.play import Player


@pytest.mark.parametrize("seed", [3, 9, 17, 34, 58, 115])
async def test_whatever_happens_every_record_arrives_or_is_told_as_lost_in_order_and_under_one_name(
    tmp_path: Path, seed: int
) -> None:
    player = Player(draw(seed), tmp_path)
    findings = judge(await player.play())
    assert not findings, "\n".join((f"seed {seed}", *findings, player.story()))
