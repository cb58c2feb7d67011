"""Flower's command line: what comes after the end of a log's stream is not lost."""

import os
import sys

from rich.console import Console

from potara_flwr.running.display import LiveDisplay
from potara_flwr.running.flower_cli import rest_of_log

FLWR = f"""#!{sys.executable}
import pathlib, sys
assert sys.argv[1:] == ["log", "7", "potara", "--show"]
calls = pathlib.Path(__file__).with_name("calls")
calls.touch()
calls.write_text(calls.read_text() + ".")
print("WARNING :     one\\nWARNING :     two")
if len(calls.read_text()) > 1:
    print("ERROR :     error: round 1: nobody is there")
"""


def test_last_lines_are_read_once_until_the_error_is_there(tmp_path, capsys):
    flwr = tmp_path / "flwr"
    flwr.write_text(FLWR)
    flwr.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    display = LiveDisplay(Console())
    log = rest_of_log("7", environment, display, "WARNING :     one\n")
    assert display.error == "round 1: nobody is there"
    assert capsys.readouterr().out == "two\n"
    assert len(log.splitlines()) == 3
    assert (tmp_path / "calls").read_text() == ".."
