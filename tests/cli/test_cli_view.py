"""`sirl view` as a command."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from report_runs import attack_rows, write_run


def test_bad_input_is_one_line(sirl: Any, tmp_path: Path) -> None:
    assert "RUNS_DIR nowhere: no such folder" in sirl("view", "nowhere").error
    assert "--port 70000: expected 0 to 65535" in sirl("view", tmp_path, "--port", 70_000).error
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"--port {port}: 127.0.0.1 does not give it" in sirl("view", tmp_path, "--port", port).error


def test_it_serves_until_it_is_ended(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("benign", "metrics", "gap", "gap_samples"))
    write_run(tmp_path / "mine", attacks=attack_rows(2, {"aim": (0.3, 0.9)}), **nothing)
    command = [sys.executable, "-m", "sirl.cli.main", "view", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        url = process.stderr.readline().split()[0]
        with urllib.request.urlopen(url, timeout=20) as answer:
            assert "mine" in answer.read().decode()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
