"""The packages without booting anything: what is in them, and that they can be built again."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.system import packages
from tests.system.tools import ROOT, need, run

CONFFILE = "bfd58a0a8078cf11021f72d16337da6826a642f3375264cbffffecd728c3ab97"


@pytest.fixture(scope="session")
def unpacked(amd64: Path, work: Path) -> Path:
    folder = work / "unpacked"
    run("dpkg-deb", "-x", amd64, folder)
    return folder


def test_lintian_has_nothing_to_say_about_either_package(amd64: Path, arm64: Path) -> None:
    # The fixtures had it look at them.
    assert run("dpkg-deb", "-f", amd64, "Architecture").strip() == "amd64"
    assert run("dpkg-deb", "-f", arm64, "Architecture").strip() == "arm64"


def test_the_same_commit_gives_the_same_bytes_in_another_folder(amd64: Path, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        again = packages.build("amd64", tmp_path / "somewhere else")
    finally:
        os.umask(before)
    assert hashlib.sha256(again.read_bytes()).hexdigest() == hashlib.sha256(amd64.read_bytes()).hexdigest()


def test_all_that_is_in_it_has_the_time_of_the_commit(amd64: Path) -> None:
    """What has the time of a checkout would differ in the next one."""
    times = {" ".join(line.split()[3:5]) for line in run("dpkg-deb", "-c", amd64, TZ="UTC").splitlines()}
    assert len(times) == 1


def test_the_version_is_the_agent_s(amd64: Path) -> None:
    assert run("dpkg-deb", "-f", amd64, "Version").strip() == packages.version()


def test_the_tree_has_a_compiled_module_for_each_python_and_for_its_machine(amd64: Path, arm64: Path) -> None:
    for package, machine in ((amd64, "x86_64"), (arm64, "aarch64")):
        modules = [line.split("/")[-1] for line in run("dpkg-deb", "-c", package).split("\n") if line.endswith(".so")]
        wanted = [f"_pydantic_core.cpython-3{minor}-{machine}-linux-gnu.so" for minor in (11, 12, 13, 14)]
        assert sorted(modules) == sorted([*wanted, "_psutil_linux.abi3.so"])


def test_nothing_of_this_machine_is_in_the_package(unpacked: Path) -> None:
    words = [str(ROOT).encode(), str(Path.home()).encode() + b"/"]
    for file in unpacked.rglob("*"):
        if file.is_file() and not file.is_symlink() and file.suffix != ".so":
            content = file.read_bytes()
            assert not [word for word in words if word in content], file


def test_the_conffile_is_what_it_always_was() -> None:
    """A change of it would have an upgrade ask, and stop where nobody answers: see docs/decisions/0011."""
    conffile = ROOT / "packaging/debian/etc/roamd.toml"
    assert hashlib.sha256(conffile.read_bytes()).hexdigest() == CONFFILE
    assert not [line for line in conffile.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


def test_the_manual_pages_are_without_a_warning(unpacked: Path) -> None:
    need("man")
    pages = sorted((unpacked / "usr/share/man").rglob("*.gz"))
    assert [page.name for page in pages] == ["roamd.1.gz", "roamd.toml.5.gz", "roamd.service.8.gz"]
    for page in pages:
        done = subprocess.run(
            ["man", "--warnings", "--local-file", page], capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stderr == ""
    told = run("man", "--local-file", pages[1], MANWIDTH="200")
    assert "keep_alive = 30" in told
    assert "fresh_for = 5.0" in told


def test_bash_completes_commands_and_options(unpacked: Path) -> None:
    assert completed(unpacked, "roamd", "") == {"run", "demo", "ground", "config", "service"} | OPTIONS
    assert completed(unpacked, "roamd", "config", "s") == {"show"}
    assert completed(unpacked, "roamd", "--config", "/x", "demo", "--o") == {"--outage"}


OPTIONS = {"--help", "--version", "--config"}


def completed(unpacked: Path, *words: str) -> set[str]:
    file = unpacked / "usr/share/bash-completion/completions/roamd"
    script = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _roamd; printf "%s\\n" "${COMPREPLY[@]}"'
    return set(run("bash", "-c", script, "bash", file, *words).split())


def test_zsh_can_read_its_completion(unpacked: Path) -> None:
    need("zsh")
    run("zsh", "-n", unpacked / "usr/share/zsh/vendor-completions/_roamd")
