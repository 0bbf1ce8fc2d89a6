import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.lab.broker import Broker
from tests.lab.faults import Lab
from tests.lab.namespaces import why_not
from tests.lab.net import net


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    """The lab, freshly built. Where it cannot be, the test skips, or with LINKLAB=require fails."""
    if reason := why_not():
        say = pytest.fail if os.environ.get("LINKLAB") == "require" else pytest.skip
        say(f"no link lab here: {reason}")
    # pytest's own folders have names that are too long for a Unix socket.
    with tempfile.TemporaryDirectory(prefix="roamd-lab-") as folder:
        async with net(Path(folder)) as network:
            yield Lab(net=network, broker=Broker(network.core, Path(folder)))
