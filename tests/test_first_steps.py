"""A wrong folder, a storage that is not there, a missing environment: one sentence with the command that helps."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from studies import tiny_study
from study.advice import warnings_of
from study.cli import main
from study.environment import missing_package
from study.load import load_study

ROOT = Path(__file__).resolve().parents[1]
DIGITS = "study/presets/digits.yaml"


@pytest.mark.parametrize(
    "command",
    [("status", DIGITS), ("report", DIGITS), ("report", DIGITS, "--serve"), ("explain", "pretrain")],
    ids=" ".join,
)
def test_storage_that_is_not_there_is_named_with_the_command_that_makes_it(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "rums"
    assert main([*command, "--storage", str(missing)]) == 2
    said = capsys.readouterr().err
    assert f"there is no storage at {missing}; the working directory is {Path.cwd()}" in said
    assert "python -m study launch" in said and said.count("\n") == 1
    assert not missing.exists()


def test_plan_and_dry_run_need_no_storage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "runs"
    assert main(["plan", DIGITS, "--storage", str(missing)]) == 0
    assert main(["launch", DIGITS, "--storage", str(missing), "--dry-run"]) == 0
    assert f"there is no storage at {missing} yet: everything would be run" in capsys.readouterr().err
    assert not missing.exists()


def test_report_of_the_paper_needs_no_storage(tmp_path: Path) -> None:
    assert main(["report", "--paper", "--storage", str(tmp_path / "new"), "-o", str(tmp_path / "paper.md")]) == 0


def run(python: str, cwd: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m study` with this project on the path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [python, "-m", "study", *arguments],
        cwd=cwd,
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_interpreter_without_the_packages_is_told_of_make_setup() -> None:
    """An interpreter without site-packages is one that has nothing installed."""
    bare = (
        f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['study', 'plan', 'x']; "
        "runpy.run_module('study', run_name='__main__')"
    )
    command = [sys.executable, "-I", "-S", "-c", bare]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert f"run `make setup` in {ROOT}" in done.stderr and f"{ROOT}/.venv/bin/python -m study" in done.stderr


def test_another_package_named_datasets_ends_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").write_text("")
    done = run(sys.executable, tmp_path, "plan", "x")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: `import datasets` would load") and "from the project's root" in done.stderr


def test_module_of_ours_that_is_missing_is_our_own_fault() -> None:
    with pytest.raises(ModuleNotFoundError):
        missing_package(ModuleNotFoundError("No module named 'study.nothing'", name="study.nothing"))
    assert "the package ray is not installed" in missing_package(ModuleNotFoundError("", name="ray.tune"))


def test_launcher_runs_from_any_folder_and_says_how_to_make_its_environment(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    shutil.copy(ROOT / "labelscale", root)
    (tmp_path / "link").symlink_to(root / "labelscale")
    done = subprocess.run([tmp_path / "link", "plan"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr == (
        f"error: there is no environment in {root}/.venv; run: make -C {root} setup\n"
    )
    (root / ".venv" / "bin").mkdir(parents=True)
    python = root / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\necho "$PYTHONPATH" "$@"\n')
    python.chmod(0o755)
    done = subprocess.run(
        [tmp_path / "link", "plan", "a b"], cwd=tmp_path, env={}, capture_output=True, text=True, check=False
    )
    assert done.stdout == f"{root} -m study plan a b\n"


def test_study_that_is_meant_from_another_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"did you mean {DIGITS} in {ROOT}, which is not the working directory"):
        load_study(DIGITS)


@pytest.mark.parametrize(
    ("stages", "question", "fractions", "warning"),
    [
        (("pretrain",), "", [0.1, 1.0], "no classifier is trained"),
        (("supervised",), "", [0.1, 1.0], "nothing to compare it with"),
        (("pretrain", "finetune"), "", [0.1, 1.0], "no grid runs `supervised`"),
        (("pretrain", "finetune"), "How many labels does it save?", [0.1, 1.0], "no grid runs `supervised`"),
        (("pretrain", "finetune", "supervised"), "What is saved?", [0.1], "one label_fraction"),
        (("pretrain", "finetune"), "Which layer is best?", [0.1], None),
        (("pretrain", "finetune", "supervised"), "", [0.1, 1.0], None),
    ],
)
def test_stage_that_the_question_needs_is_missed_before_anything_is_paid_for(
    stages: tuple[str, ...], question: str, fractions: list[float], warning: str | None
) -> None:
    grid = {"architecture": ["r18"], "label_fraction": fractions, "stages": list(stages)}
    found = list(warnings_of(tiny_study(question=question, grid=grid)))
    assert len(found) == (warning is not None) and all(warning is not None and warning in one for one in found)


def test_plan_and_dry_run_print_the_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [DIGITS, "--set", "stages.supervised=null", "--storage", str(tmp_path)]
    for command in (["plan", *arguments], ["launch", *arguments, "--dry-run"]):
        assert main(command) == 0
        assert "warning: no grid runs `supervised`" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--storage", "--set", "--prices", "--devices"])
def test_two_dashes_are_no_value(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", DIGITS, f"{option}=--"]) == 2
    assert capsys.readouterr().err == f"error: {option}=--: expected a value behind the equals sign\n"
