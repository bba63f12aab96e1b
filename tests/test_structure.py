from __future__ import annotations

import ast
import graphlib
import importlib.metadata
import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest
import yaml

import reports.figures.style
import reports.records
import trainables.spec
from reports.storage import Storage
from studies import tiny
from study.grid import JUDGED
from study.throughput import Calibration, Measurement, write_calibration

ROOT = Path(__file__).resolve().parents[1]
OURS = {"datasets", "trainables", "reports", "study", "tests", "benchmarks"}
STORAGE = {f"datasets.{name}" for name in ("disk", "filesystem", "object_store", "typed_files", "urls")}
"""How files are read and written, wherever they are: they need neither torch nor ray."""
MAY_IMPORT: dict[str, set[str]] = {
    "datasets": set(),
    "trainables": {"datasets"},
    "reports": STORAGE,
    "study": {"datasets", "trainables", "reports"},
}


def imported(file: Path) -> set[str]:
    """Modules that a file imports, inside of functions too, without those of its own package."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports here are absolute"
            names.add(str(node.module))
    return {name for name in names if name.partition(".")[0] != file.relative_to(ROOT).parts[0]}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_go_downward(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert len(files) > 10
    forbidden = OURS - MAY_IMPORT[package]
    if package == "reports":
        forbidden |= {"torch", "torchvision", "ray"}
    found = {str(file.relative_to(ROOT)): imported(file) - MAY_IMPORT[package] for file in files}
    wrong = {
        file: sorted(name for name in names if name.partition(".")[0] in forbidden) for file, names in found.items()
    }
    assert not {file: names for file, names in wrong.items() if names}


def test_one_client_asks_object_stores_and_one_function_writes_atomically() -> None:
    homes = {
        "S3FileSystem(": "datasets/object_store.py",
        "GcsFileSystem(": "datasets/object_store.py",
        "FileSystem.from_uri(": "datasets/object_store.py",
        "os.fsync(": "datasets/filesystem.py",
    }
    texts = {str(f.relative_to(ROOT)): f.read_text() for package in MAY_IMPORT for f in (ROOT / package).rglob("*.py")}
    for words, home in homes.items():
        assert [file for file, text in texts.items() if words in text] == [home], words


def drawn_imports() -> dict[str, set[str]]:
    """Every module of the four packages, with those that it imports: also inside of functions, and for types."""
    files = [file for package in MAY_IMPORT for file in (ROOT / package).rglob("*.py")]
    dotted = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in files}
    modules = {name.removesuffix(".__init__"): file for name, file in dotted.items()}
    graph: dict[str, set[str]] = {}
    for module, file in modules.items():
        graph[module] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                graph[module] |= {alias.name for alias in node.names} & modules.keys()
            elif isinstance(node, ast.ImportFrom):
                full = {f"{node.module}.{alias.name}": str(node.module) for alias in node.names}
                graph[module] |= {name if name in modules else of for name, of in full.items()} & modules.keys()
    return graph


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = drawn_imports()
    assert len(graph) > 200 and "study.launch" in graph["study.cli"]  # which is imported where it is needed
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


def test_a_schedule_decides_by_what_it_is_told() -> None:
    assert drawn_imports()["study.schedule"] == {"study.plan"}, "it knows no storage, no evidence and no budget"


def test_what_a_worker_is_told_is_typed_without_torch_and_ray() -> None:
    modules = loaded_by("import study.job")
    assert "pydantic" in modules and not modules & {"torch", "torchvision", "ray"}


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter in the project's root."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def loaded_by(code: str, *arguments: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after running code."""
    tail = "import json; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = python(f"import sys\n{code}\n{tail}", *arguments)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_report_is_built_without_torch_and_ray() -> None:
    modules = loaded_by("import reports.build")
    assert "plotly" in modules and not modules & {"torch", "ray", "trainables", "study"}


PLAN = "from study.cli import main\nassert main(sys.argv[1:]) == 0"


def test_plan_of_a_preset_needs_neither_torch_nor_ray(tmp_path: Path) -> None:
    modules = loaded_by(PLAN, "plan", "study/presets/imagenet-table1.yaml", "--storage", str(tmp_path))
    assert "study" in modules and not modules & {"torch", "torchvision", "ray"}


def test_plan_that_is_predicted_and_simulated_needs_neither_torch_nor_ray(tmp_path: Path) -> None:
    write_calibration(Storage(str(tmp_path)), same_speed_for_all())
    modules = loaded_by(PLAN, "plan", "study/presets/digits.yaml", "--storage", str(tmp_path), "--devices", "8")
    assert "study" in modules and not modules & {"torch", "torchvision", "ray"}


def test_plan_of_vision_transformers_needs_neither_torch_nor_ray(tmp_path: Path) -> None:
    grid = {"architecture": ["vit_ti4", "vit_b8"], "label_fraction": [0.1], "head_layer": [1]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(tiny(grid=grid)))
    modules = loaded_by(PLAN, "plan", str(tmp_path / "study.yaml"), "--storage", str(tmp_path))
    assert "study" in modules and not modules & {"torch", "torchvision", "ray"}


def same_speed_for_all() -> Calibration:
    measured = Measurement(
        architecture="r10", stage="pretrain", batch=1, image_size=8, precision="float32", steps=1, seconds=1, flops=1
    )
    return Calibration(
        device="cpu", hardware="any", measured_at=datetime.now(UTC), versions={}, measurements=(measured,)
    )


def test_plan_and_status_of_sharded_images_need_neither_torch_nor_ray(shards: str, tmp_path: Path) -> None:
    data = {"name": "digits", "source": shards, "image_size": 8, "train_images": 200, "classes": 10}
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(tiny(data=data)))
    code = f"{PLAN}\nassert main(['status', *sys.argv[2:]]) == 1"
    modules = loaded_by(code, "plan", str(file), "--storage", str(tmp_path))
    assert "datasets" in modules and not modules & {"torch", "torchvision", "ray"}


def test_a_stage_is_known_wherever_stages_are_told_apart() -> None:
    assert set(trainables.spec.STAGES) == set(get_args(trainables.spec.Stage)) == set(trainables.spec.SETTINGS)
    assert set(get_args(reports.records.Stage)) == set(reports.figures.style.STAGES) == set(trainables.spec.STAGES)
    assert {"pretrain", *JUDGED} == set(trainables.spec.STAGES)  # all others read labels


def test_another_package_named_datasets_is_refused_with_a_remedy(tmp_path: Path) -> None:
    other = tmp_path / "datasets" / "__init__.py"
    other.parent.mkdir()
    other.write_text("")
    refused = python("import sys; sys.path.insert(0, sys.argv[1]); import study", str(tmp_path))
    assert refused.returncode == 1
    message = refused.stderr.splitlines()[-1]
    assert message.startswith("ImportError") and str(other) in message and "from the project's root" in message


def test_tests_run_with_exactly_the_pinned_versions() -> None:
    """Nodes of a cluster install all that is pinned, and nothing else."""
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {name: version for name, _, version in (line.partition("==") for line in pins if line)}
    installed = {canonical(one.name): one.version for one in importlib.metadata.distributions()}
    assert {name: installed.get(canonical(name)) for name in pinned} == pinned


def canonical(name: str) -> str:
    """As the packaging specification normalizes names (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
