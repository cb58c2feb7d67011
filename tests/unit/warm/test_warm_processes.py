"""A warm node's processes, with an app of a few lines in the place of Flower's: what reaches a fork
and what comes back from it, what is held and when it is not, and that nothing is lost where nobody
answers.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from own_processes import HANGING

import potara_flwr

PACKAGE = Path(potara_flwr.__file__).parents[1]

COMMAND = """#!/bin/sh
echo "cold $*"
exit 7
"""
"""In the place of Flower's flwr-clientapp."""

MAIN = """
import json, os, pathlib, signal, sys, time

def main():
    what, *words = sys.argv[1:]
    if what == "echo":
        text = sys.stdin.read()
        print(json.dumps([os.getpid(), os.getcwd(), os.environ.get("MINE"), words, text]))
        print("to stderr", file=sys.stderr)
        sys.exit(int(words[0]))
    if what == "sleep":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
        print(os.getpid(), flush=True)
        time.sleep(600)
    if what == "abort":
        os.abort()
    if what == "app":
        folder, base, value = words
        sys.path.insert(0, folder)
        import app.part
        print(app.part.told(base, value))
"""

PART = """
import os, pathlib
from potara_flwr.warm.telling import tell

WORD, HELD = "first", []

def hold(values):
    HELD[:] = [values["value"]]
    return values["value"]

def told(base, value):
    app = pathlib.Path(__file__).parents[1]
    tell(app, "app.part:hold", base, {"value": value}, [str(app / "read")])
    return f"{WORD} {HELD}"
"""

NODE = """
import os, sys
from potara_flwr.warm.node import warm_folder
print(warm_folder(os.environ, float(sys.argv[1]), "fake_main:main", ["json"]), flush=True)
sys.stdin.read()
"""
"""A SuperNode that ends with its standard input."""


class Node:
    """A warm node."""

    def __init__(self, place: Path, idle_seconds: float) -> None:
        (place / "bin").mkdir(parents=True)
        (place / "bin" / "flwr-clientapp").write_text(COMMAND)
        (place / "bin" / "flwr-clientapp").chmod(0o700)
        (place / "fake_main.py").write_text(MAIN)
        self.place, self.log = place, place / "log"
        self.environment = {
            **os.environ,
            "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": f"{place}:{PACKAGE}",
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", NODE, str(idle_seconds)], env=self.environment, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        self.folder = Path(self.process.stdout.readline().strip())

    def start(self, *words: str, **options) -> subprocess.Popen[str]:
        """Start what Flower starts for a message."""
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(
            [self.folder / "flwr-clientapp", *words], text=True,
            **{"env": self.environment, **streams, **options},
        )  # fmt: skip

    def message(self, *words: str, text: str = "", **options) -> tuple[int, str, str]:
        """Return exit status and what was said."""
        with self.start(*words, **options) as process:
            said = process.communicate(text, timeout=HANGING)
        return process.returncode, *said

    def resident(self) -> psutil.Process:
        """Return the resident process, whose parent is the keeper."""
        (keeper,) = psutil.Process(self.process.pid).children()
        until(keeper.children)
        return keeper.children()[0]

    def said(self, words: str) -> bool:
        """Return whether the log has the words."""
        return words in self.log.read_text()

    def stop(self) -> None:
        """End the SuperNode; all the others end by themselves."""
        others = psutil.Process(self.process.pid).children(recursive=True)
        self.process.communicate()
        _, alive = psutil.wait_procs(others, timeout=HANGING)
        assert alive == []
        assert not self.folder.exists()


def until(condition: Callable[[], object]) -> None:
    """Wait for something to be so."""
    deadline = time.monotonic() + HANGING
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def node(tmp_path_factory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("node"), 600)
    yield node
    node.stop()


@pytest.fixture
def own_node(tmp_path) -> Iterator[Node]:
    node = Node(tmp_path / "node", 600)
    yield node
    node.stop()


def test_a_fork_has_what_a_process_inherits(node, tmp_path):
    environment = {**node.environment, "MINE": "a b"}
    status, out, errors = node.message(
        "echo", "3", "two words", text="from stdin", cwd=tmp_path, env=environment
    )
    pid, folder, mine, words, text = json.loads(out)
    assert (status, folder, mine, text) == (3, str(tmp_path), "a b", "from stdin")
    assert words == ["3", "two words"]
    assert errors.splitlines()[-1] == "to stderr"
    assert pid != node.resident().pid


def test_forks_work_side_by_side(node):
    first, second = node.start("sleep"), node.start("sleep")
    pids = {int(process.stdout.readline()) for process in (first, second)}
    assert pids == {child.pid for child in node.resident().children()}
    for process in (first, second):
        process.terminate()
        process.communicate()
    assert (first.returncode, second.returncode) == (9, 9)


def test_a_fork_dies_with_its_shim(node):
    process = node.start("sleep")
    fork = psutil.Process(int(process.stdout.readline()))
    process.kill()
    process.communicate()
    until(lambda: not fork.is_running())


def test_a_fork_that_aborts_is_told_by_its_signal(node):
    assert node.message("abort")[0] == 128 + signal.SIGABRT
    assert node.message("echo", "0")[0] == 0


def app_at(folder: Path, word: str = "first") -> Path:
    (folder / "app").mkdir(parents=True)
    (folder / "app" / "__init__.py").write_text("")
    (folder / "app" / "part.py").write_text(PART.replace("first", word))
    return folder


def test_an_app_is_held_as_long_as_it_is_the_same(own_node, tmp_path):
    node, app = own_node, app_at(tmp_path / "one")
    assert node.message("app", str(app), "base", "a")[1] == "first []\n"
    assert node.message("app", str(app), "base", "b")[1] == "first ['a']\n"
    assert node.message("app", str(app), "base", "b")[1] == "first ['b']\n"
    # Another app of the same name, and files that were changed, are imported, whatever is held.
    other = app_at(tmp_path / "two", "other")
    assert node.message("app", str(other), "base", "c")[1] == "other []\n"
    until(lambda: node.said("holds c"))
    assert node.message("app", str(other), "base", "c")[1] == "other ['c']\n"
    (other / "app" / "part.py").write_text(PART.replace("first", "changed"))
    assert node.message("app", str(other), "base", "c")[1] == "changed []\n"
    assert node.message("app", str(other), "base", "c")[1] == "changed ['c']\n"
    (other / "read").write_text("what the app has read")
    assert node.message("app", str(other), "base", "c")[1] == "changed []\n"
    assert node.message("app", str(other), "base", "c")[1] == "changed ['c']\n"


def test_another_base_gets_a_new_process_under_the_same_number(own_node, tmp_path):
    node, app = own_node, app_at(tmp_path / "one")
    for base in ("small", "large"):
        node.message("app", str(app), base, base)
        until(lambda base=base: node.said(f"process {node.resident().pid} holds {base}"))
    assert node.said("a new process takes the place of")
    assert node.message("app", str(app), "large", "large")[1] == "first ['large']\n"


def test_nothing_is_held_with_threads_or_errors(own_node, tmp_path):
    node, app = own_node, app_at(tmp_path / "one")
    thread = (
        "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"
    )
    part = app / "app" / "part.py"
    part.write_text(PART.replace("    HELD[:]", f"    {thread}\n    HELD[:]"))
    for _ in range(2):
        assert node.message("app", str(app), "base", "a")[:2] == (0, "first []\n")
        until(lambda: node.said("nothing is held (RuntimeError: loading it has left 2 threads)"))
    part.write_text(PART.replace("    HELD[:]", "    1 / 0\n    HELD[:]"))
    for value in ("b", "c"):
        assert node.message("app", str(app), "base", value)[:2] == (0, "first []\n")
        until(lambda: node.said("nothing is held (ZeroDivisionError: division by zero)"))


def test_a_resident_process_that_was_killed_loses_nothing(own_node):
    node = own_node
    process = node.start("sleep")
    fork = int(process.stdout.readline())
    first = node.resident()
    first.kill()
    until(lambda: node.said("the resident process has ended with -9"))
    assert psutil.pid_exists(fork)
    process.terminate()
    assert (
        process.communicate()[1].splitlines()[-1].startswith("warm: the resident process has ended")
    )
    assert node.message("echo", "4")[0] == 4
    assert node.resident() != first


def test_who_is_not_answered_gets_a_cold_process(own_node):
    node = own_node
    node.message("echo", "0")
    node.resident().suspend()
    shim = node.folder / "shim.py"
    shim.write_text(shim.read_text().replace("PATIENCE = 15.0", "PATIENCE = 0.2"))
    process = node.start("echo", "0")
    assert process.wait(HANGING) == 7
    node.resident().resume()  # and does not do again what was given up
    assert process.communicate() == (
        "cold echo 0\n",
        "cold: no resident process in 0.2 s; this message has a process of its own\n",
    )
    (node.folder / "socket").unlink()
    status, out, errors = node.message("echo", "0")
    assert (status, out) == (7, "cold echo 0\n")
    assert errors.startswith("cold: no resident process ([Errno 2]")


def test_packages_that_were_installed_meanwhile_get_a_new_process(own_node):
    node = own_node
    code = node.folder / "resident.py"
    place = repr(str(node.place))
    code.write_text(code.read_text().replace('sysconfig.get_path("platlib")', place))
    node.resident().kill()
    until(lambda: node.said("ended with -9"))
    assert node.message("echo", "0")[0] == 0
    (node.place / "new-1.0.dist-info").mkdir()
    status, out, errors = node.message("echo", "0")
    assert (status, out) == (7, "cold echo 0\n")
    assert errors.startswith("cold: packages were installed since")
    assert node.message("echo", "6")[0] == 6


def test_a_resident_process_ends_when_nobody_asks_and_comes_back(tmp_path):
    node = Node(tmp_path / "node", 0.5)
    until(lambda: node.said("ends after 0.5 s without a message"))
    (keeper,) = psutil.Process(node.process.pid).children()
    until(lambda: not keeper.children())
    assert node.message("echo", "5")[0] == 5
    node.stop()
