"""What the agent refuses at its start: each with its exit code, and a line that says what, where and what to do."""

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.agent_process import ROOT, AgentProcess

NOBODY = 65_534
BROKER = {"broker.urls": ["mqtt://127.0.0.1:1"]}


async def refused(agent: AgentProcess, code: int) -> str:
    """Start it, and return what it said when it ended with this exit code."""
    async with agent:
        assert await agent.wait() == code
        return "\n".join(agent.lines)


async def test_a_second_start_is_refused_while_one_runs_and_the_first_is_not_disturbed(state_dir: Path) -> None:
    async with AgentProcess(state_dir, BROKER) as first:
        await first.wait_for_line("roamd .* is up: .* epoch 1")
        said = await refused(AgentProcess(state_dir, BROKER), 74)
        assert f"the state folder {state_dir} is in use by another roamd (pid {first.child.pid})" in said
        assert "Traceback" not in said
        first.sigterm()
        assert await first.wait() == 0
    async with AgentProcess(state_dir, BROKER) as third:
        await third.wait_for_line("roamd .* is up: .* epoch 2")


async def test_a_start_after_a_kill_is_not_refused(state_dir: Path) -> None:
    async with AgentProcess(state_dir, BROKER) as agent:
        await agent.wait_for_line("roamd .* is up: .* epoch 1")
        await agent.kill()
        assert agent.socket.exists()
        await agent.start()
        await agent.wait_for_line("roamd .* is up: .* epoch 2")


async def test_an_unknown_setting_names_the_file_the_key_and_the_nearest_known_one(state_dir: Path) -> None:
    agent = AgentProcess(state_dir, {**BROKER, "broker.keep_alife": 20})
    said = await refused(agent, 78)
    assert said == f"roamd: {agent.config}: unknown key broker.keep_alife; did you mean broker.keep_alive?"


def as_nobody(folder: Path, config: Path) -> subprocess.CompletedProcess[str]:
    """Run the agent as a user who may read this package, and write nothing."""
    return subprocess.run(
        [sys.executable, "-m", "agent", "run", "--config", config],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(folder)},
        user=NOBODY if os.geteuid() == 0 else None,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def may_read_this() -> bool:
    probe = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); import agent, pydantic"]
    user = NOBODY if os.geteuid() == 0 else None
    try:
        return subprocess.run(probe, user=user, capture_output=True, check=False).returncode == 0
    except PermissionError:
        return False


@pytest.mark.skipif(not may_read_this(), reason="the user nobody may not read this checkout or its Python")
def test_a_state_folder_that_is_not_writable_is_an_error_of_storage() -> None:
    outer = Path(tempfile.mkdtemp(prefix="roamd-test-"))
    outer.chmod(0o755)  # others may not enter pytest's own folders
    folder = outer / "state"
    folder.mkdir()
    try:
        config = outer / "roamd.toml"
        config.write_text(f'device_id = "rover"\noutbox.path = "{folder}/outbox.db"\n', encoding="utf-8")
        folder.chmod(0o555)
        ended = as_nobody(outer, config)
    finally:
        folder.chmod(0o755)
        shutil.rmtree(outer)
    assert ended.returncode == 74, ended.stderr
    assert ended.stderr == (
        f"roamd: cannot write the state folder {folder}: Permission denied; make it writable for this user,"
        " or set outbox.path to a file elsewhere\n"
    )


async def test_a_state_folder_that_is_a_file_is_an_error_of_storage(state_dir: Path) -> None:
    (state_dir / "file").write_text("", encoding="utf-8")
    said = await refused(AgentProcess(state_dir, {**BROKER, "outbox.path": state_dir / "file/outbox.db"}), 74)
    assert said.startswith(f"roamd: cannot write the state folder {state_dir / 'file'}: ")


async def test_a_file_that_is_no_database_is_refused_and_left_as_it_was(state_dir: Path) -> None:
    file = state_dir / "outbox.db"
    content = b"someone's notes\n" * 1000
    file.write_bytes(content)
    said = await refused(AgentProcess(state_dir, BROKER), 74)
    assert str(file) in said
    assert "Traceback" not in said
    assert file.read_bytes() == content


async def test_another_programs_database_is_refused_and_left_as_it_was(state_dir: Path) -> None:
    file = state_dir / "outbox.db"
    database = sqlite3.connect(file)
    database.execute("CREATE TABLE song (title TEXT)")
    database.commit()
    database.close()
    content = file.read_bytes()
    said = await refused(AgentProcess(state_dir, BROKER), 74)
    assert str(file) in said
    assert file.read_bytes() == content


async def test_a_newer_schema_is_refused(state_dir: Path) -> None:
    async with AgentProcess(state_dir, BROKER) as agent:
        await agent.wait_for_line("roamd .* is up: .* epoch 1")
        agent.sigterm()
        assert await agent.wait() == 0
    database = sqlite3.connect(state_dir / "outbox.db")
    database.execute("PRAGMA user_version = 999")
    database.commit()
    database.close()
    said = await refused(AgentProcess(state_dir, BROKER), 74)
    assert "999" in said
    assert "newer" in said


async def test_a_socket_on_which_another_program_listens_is_not_taken_away(state_dir: Path) -> None:
    path = state_dir / "other.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        said = await refused(AgentProcess(state_dir, {**BROKER, "ingest.socket": path}), 74)
        assert said.splitlines()[-1] == (
            f"roamd: cannot listen on {path}: another process listens there; set ingest.socket to another path"
        )
        assert path.exists()


async def test_a_socket_path_that_is_too_long_is_told(state_dir: Path) -> None:
    path = state_dir / ("x" * 120)
    said = await refused(AgentProcess(state_dir, {**BROKER, "ingest.socket": path}), 74)
    assert f"cannot listen on {path}: " in said
    assert "Traceback" not in said


async def test_a_broker_that_is_away_is_no_reason_not_to_start(state_dir: Path) -> None:
    async with AgentProcess(state_dir, {**BROKER, "streams.cpu.interval": 0.1}) as agent:
        await agent.wait_for_line("link down: .*next attempt in")
        agent.sigterm()
        assert await agent.wait() == 0
        assert "Traceback" not in "\n".join(agent.lines)
