"""What `make fuzz` counts as a finding: a runner that cannot find anything finds nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from fuzz import __main__ as runner
from fuzz import child, mutate
from fuzz.inputs import Attack
from fuzz.kinds import KINDS


def planted(folder: Path) -> Attack:
    """Of ten inputs one ends the process, one is an error that is none of ours, and four are refused."""
    done = 0

    def attack(draw: random.Random) -> str:
        nonlocal done
        kept = (
            json.loads((folder.parent / "planted.json").read_text()) if (folder.parent / "planted.json").exists() else 0
        )
        done = kept + 1
        (folder.parent / "planted.json").write_text(str(done))
        (folder / "input.txt").write_text(str(done))
        if done == 3:
            os.kill(os.getpid(), signal.SIGSEGV)
        if done == 7:
            raise AttributeError("no attribute")
        if done % 2 == 0:
            raise ValueError("not so")
        return "read"

    return attack


def test_ended_processes_and_foreign_errors_are_findings_whose_inputs_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--kinds", "test_fuzz:planted", "--count", "10", "--folder", str(tmp_path / "fuzz")]
    assert runner.main(arguments) == 1
    printed = capsys.readouterr().out
    assert "1 SIGSEGV" in printed.replace("ended by ", "") and "1 AttributeError" in printed
    assert printed.splitlines()[-1].split() == ["all", "10", "3", "5", "2"]
    kept = {path.parent.name: path.read_text() for path in tmp_path.glob("fuzz/*/finding-*/input.txt")}
    assert kept == {"finding-2": "3", "finding-6": "7"}


def outcome(attack: Attack) -> Counter[str]:
    return child.outcome(attack, random.Random(0))[0]


def test_outcomes_of_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(error: BaseException) -> Attack:
        def attack(draw: random.Random) -> str:
            raise error

        return attack

    def hanging(draw: random.Random) -> str:
        while True:
            pass

    before = signal.signal(signal.SIGPROF, child.slow)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(child, "CPU_SECONDS", 0.05)
            assert outcome(hanging) == {"SlowError": 1}
    finally:
        signal.signal(signal.SIGPROF, before)
    assert outcome(lambda draw: "read") == {"read": 1}
    assert (
        outcome(raising(ValueError("expected a number"))) == outcome(raising(FileNotFoundError("x"))) == {"refused": 1}
    )
    assert outcome(raising(RecursionError())) == {"RecursionError": 1}
    assert outcome(raising(UnicodeDecodeError("utf-8", b"", 0, 1, "no"))) == {"UnicodeDecodeError of a library": 1}


def test_an_input_that_takes_much_memory_is_a_finding() -> None:
    """In a process of its own: the peak of this one may be higher already."""
    code = (
        "import random; from fuzz import child; child.MEMORY_MB = 50; "
        "print(child.outcome(lambda draw: str(len(bytearray(400 * 2**20))), random.Random(0))[0])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(runner.ROOT), str(runner.TESTS)])}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "Counter({'memory': 1})"


def test_inputs_are_the_same_for_a_seed_and_differ_from_what_was_valid() -> None:
    valid = {"a": [1, {"b": "text"}], "c": None}
    made = [mutate.as_json(random.Random(number), valid) for number in range(300)]
    assert made == [mutate.as_json(random.Random(number), valid) for number in range(300)]
    assert len(set(made)) > 200 and made.count(json.dumps(valid).encode()) < 30
    assert valid == {"a": [1, {"b": "text"}], "c": None}


@pytest.mark.parametrize("kind", ["only", "failures", "records", "presets"])
def test_kind_makes_inputs_of_which_some_are_read_and_some_are_refused(kind: str, tmp_path: Path) -> None:
    attack = KINDS[kind].load(tmp_path)
    counts: Counter[str] = Counter()
    for number in range(60):
        counts += child.outcome(attack, random.Random(number))[0]
    assert counts["read"] > 0 and counts["refused"] > 0
