import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system import packages, roots
from tests.system.container import Container
from tests.system.tools import asked_for, give_up, need

SUITES = ("bookworm", "trixie")
_LONGEST = 400  # s, where a root file system has to be made first


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="the tests that take minutes, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if not item.path.is_relative_to(Path(__file__).parent):
            continue
        item.add_marker(pytest.mark.timeout(_LONGEST))
        if item.get_closest_marker("heavy") and not config.getoption("--all", default=False):
            item.add_marker(pytest.mark.skip("heavy: ./dev system --all"))


@pytest.fixture(scope="session")
def work() -> Iterator[Path]:
    """A folder for roots and layers, which pytest would keep for three sessions."""
    folder = Path(tempfile.mkdtemp(prefix="roamd-system-", dir="/var/tmp"))
    yield folder
    roots.remove(folder)


@pytest.fixture(scope="session")
def amd64(work: Path) -> Path:
    """The package for amd64, as lintian wants it."""
    asked_for()
    need("dh", "dpkg-buildpackage", "lintian")
    return packages.build("amd64", work, lintian=True)


@pytest.fixture(scope="session")
def arm64(work: Path) -> Path:
    asked_for()
    need("dh", "dpkg-buildpackage", "lintian")
    return packages.build("arm64", work, lintian=True)


@pytest.fixture(scope="session", params=SUITES)
def suite(request: pytest.FixtureRequest) -> str:
    """The release of Debian."""
    return str(request.param)


@pytest.fixture(scope="session")
def template(suite: str, work: Path) -> Iterator[Path]:
    """A root file system that boots, without roamd."""
    asked_for()
    need("mmdebstrap", "nsenter", "setpriv", "systemd-nspawn", "unshare", "zstd", root=True)
    if why := _no_overlays(work):
        give_up(why)
    folder = roots.booted(suite, work)
    yield folder
    roots.remove(folder)


def _no_overlays(work: Path) -> str:
    if "overlay" not in Path("/proc/filesystems").read_text(encoding="ascii"):
        return "the kernel has no overlayfs"
    if shutil.disk_usage(work).free < 2 * 1024**3:
        return f"less than 2 GiB are free in {work}"
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What came of installing the package and a broker on a fresh Debian."""

    layer: Path
    seconds: float
    """From the start of apt-get to the first message at a subscriber."""
    message: str
    said: str


@pytest.fixture(scope="session")
def installed(template: Path, suite: str, amd64: Path, work: Path) -> Installed:
    folder = work / f"{suite}-installed"
    with Container([template], folder) as machine:
        begun = time.monotonic()
        said = machine.install(amd64, "mosquitto", "mosquitto-clients")
        message = machine.run("mosquitto_sub", "-V", "5", "-v", "-t", "device/+/telemetry/+", "-C", "1", "-W", "60")
        seconds = time.monotonic() - begun
        machine.shut_down()
    return Installed(layer=folder / "upper", seconds=seconds, message=message, said=said)


@pytest.fixture
def machines(work: Path) -> Iterator[Callable[..., Container]]:
    """Makes machines that are gone at the end of the test."""
    with ExitStack() as stack:

        def make(*lower: Path) -> Container:
            folder = Path(tempfile.mkdtemp(prefix="machine-", dir=work))
            stack.callback(roots.remove, folder)
            return stack.enter_context(Container(lower, folder))

        yield make


@pytest.fixture
def fresh(machines: Callable[..., Container], template: Path) -> Container:
    """A machine that never had roamd."""
    return machines(template)


@pytest.fixture
def machine(machines: Callable[..., Container], template: Path, installed: Installed) -> Container:
    """A machine with roamd and a broker, which both run."""
    return machines(installed.layer, template)
