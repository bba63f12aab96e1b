"""What of a checkout gets to a cluster or into the image, in a tree that holds secrets."""

from __future__ import annotations

import fnmatch
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from study import upload
from study.upload import COMPILED, NEVER, PACKAGES, ROOT, copy_code, find_upload
from study.upload import main as say_upload

CODE = ("study/__init__.py", "study/presets/mine.yaml", "reports/assets/page.css", "datasets/a.py", "trainables/b.py")

SECRETS = (
    "study/.env",
    "study/.env.production",
    "study/prod.env",
    "datasets/id_rsa",
    "datasets/id_ed25519.pub",
    "study/server.pem",
    "study/Server.KEY",
    "study/client.p12",
    "trainables/.netrc",
    "reports/credentials.json",
    "reports/aws_credentials.csv",
    "study/secrets.yaml",
    "study/my_accessKeys.csv",
    "study/service-account-prod.json",
    "study/kubeconfig.yaml",
)
FOLDERS = ("study/secrets/", "datasets/.aws/", "trainables/.git/", "study/runs/")
IN_FOLDERS = ("study/secrets/a.py", "datasets/.aws/a.yaml", "trainables/.git/config.json", "study/runs/records/x.json")
BY_CONTENT = ("study/project-1234.json", "study/keys.yaml")
NO_CODE = ("datasets/notes.txt", "datasets/photos/cat.jpg")
ELSEWHERE = (".git/config", ".env", "runs/records/a.json", "id_rsa", "secrets/token.py", "tests/test_a.py", "notes.py")
PRIVATE_KEY = "-----BEGIN RSA PRIVATE " + "KEY-----\nMIIEow"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout with code, secrets, results and notes."""
    root = tmp_path / "checkout"
    for name in (*CODE, *SECRETS, *IN_FOLDERS, *BY_CONTENT, *NO_CODE, *ELSEWHERE, "study/__pycache__/a.pyc"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("12345")
    (root / BY_CONTENT[0]).write_text(json.dumps({"type": "service_account", "private_key": PRIVATE_KEY}))
    (root / BY_CONTENT[1]).write_text(f"key: |\n  {PRIVATE_KEY}\n")
    return root


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def test_the_code_is_copied_and_no_secret(tree: Path, tmp_path: Path) -> None:
    said = copy_code(tmp_path / "copy", tree)
    assert files_of(tmp_path / "copy") == set(CODE) == set(said.files)
    assert said.size == 5 * len(CODE)
    assert set(said.secret) == {*SECRETS, *BY_CONTENT, *FOLDERS}
    assert set(said.no_code) == set(NO_CODE)


def test_it_is_said_what_was_copied_and_what_was_not(tree: Path) -> None:
    said = find_upload(tree).sentence()
    assert said.startswith("5 files of code (0.0 MB) from datasets, reports, study, trainables, and no others")
    assert (
        "may hold secrets: datasets/.aws/" in said and f"and {len([*SECRETS, *BY_CONTENT, *FOLDERS]) - 6} more" in said
    )
    assert "are no code: datasets/notes.txt, datasets/photos/cat.jpg" in said


def test_links_lead_nowhere_and_a_storage_among_the_code_stays(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.py").write_text("1")
    (tree / "study" / "link.py").symlink_to(tmp_path / "outside.py")
    (tree / "study" / "more").symlink_to(tmp_path)
    storage = tree / "study" / "results [1]"
    storage.mkdir()
    (storage / "record.json").write_text("{}")
    copy_code(tmp_path / "copy", tree, storage)
    assert files_of(tmp_path / "copy") == set(CODE)


def test_every_file_of_this_projects_packages_is_copied() -> None:
    tracked = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(tracked.stdout.split()) <= set(find_upload().files)
    assert not find_upload().secret


def test_a_build_of_the_image_fails_if_a_secret_came_along(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say_upload() == 0
    monkeypatch.setattr(upload, "find_upload", lambda: find_upload(tree))
    assert say_upload() == 1 and "may hold secrets" in capsys.readouterr().out
    assert "RUN python -m study.upload\n" in (ROOT / "deploy" / "Dockerfile").read_text()


def rules(file: str) -> list[str]:
    return [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")]


def test_one_list_of_rules_counts_everywhere() -> None:
    names = [*NEVER, *COMPILED]
    assert rules(".rsyncignore") == names
    image = rules(".dockerignore")
    only = ["*", "!constraints.txt", "!LICENSE", "!NOTICE", *(f"!{package}" for package in PACKAGES)]
    assert image == [*only, *(f"**/{name}" for name in names)]
    for file in ("cluster.yaml", "deploy/on-prem.yaml"):
        assert yaml.safe_load((ROOT / file).read_text())["rsync_filter"] == [".rsyncignore"]


def in_image(name: str) -> bool:
    """Whether Docker copies a file by our `.dockerignore`: what the last line says that matches it or a folder above;
    `**/` is any folders (docs.docker.com, "Dockerfile reference")."""
    taken = True
    parts = name.split("/")
    above = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    for line in rules(".dockerignore"):
        pattern = line.removeprefix("!")
        whole = not pattern.startswith("**/")
        names = [path for path in above if "/" not in path] if whole else [path.rsplit("/", 1)[-1] for path in above]
        if any(fnmatch.fnmatchcase(found, pattern.removeprefix("**/")) for found in names):
            taken = line.startswith("!")
    return taken


def test_image_has_the_code_and_no_secret_that_its_name_tells() -> None:
    assert all(map(in_image, (*CODE, "constraints.txt")))
    lower = [name for name in (*SECRETS, *IN_FOLDERS, *ELSEWHERE) if name == name.lower()]
    assert len(lower) > 20 and not any(map(in_image, lower))


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
def test_copy_of_the_checkout_by_ray_has_no_secret_and_rays_own_files_get_there(tree: Path, tmp_path: Path) -> None:
    from ray.autoscaler._private.command_runner import SSHCommandRunner

    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    options = SSHCommandRunner._create_rsync_filter_args(object.__new__(SSHCommandRunner), cluster)
    shutil.copyfile(ROOT / ".rsyncignore", tree / ".rsyncignore")
    subprocess.run(["rsync", "-a", *options, f"{tree}/", tmp_path / "copy"], check=True)
    lower = {name for name in (*SECRETS, *IN_FOLDERS, *ELSEWHERE) if name == name.lower()}
    kept = {"tests/test_a.py", "notes.py"}
    assert files_of(tmp_path / "copy") >= {*CODE, *NO_CODE, *kept} and not files_of(tmp_path / "copy") & (lower - kept)
    for name in ("auth_token", "key.pem", "id_ed25519"):  # the token, and the key by which the head reaches workers
        (tmp_path / name).write_text("a")
        subprocess.run(["rsync", "-a", *options, tmp_path / name, tmp_path / "sent"], check=True)
        assert (tmp_path / "sent").is_file()
        (tmp_path / "sent").unlink()
