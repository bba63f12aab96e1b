"""A study's report from its storage, in the formats that are asked for, where it is wanted."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from difflib import get_close_matches
from functools import cache
from pathlib import PurePosixPath
from typing import cast

from datasets.disk import DiskError
from datasets.urls import absolute
from reports import paper
from reports.drawing import figures_of
from reports.export import IMAGE_FORMATS, ImageFormat, as_csv, as_images, as_parquet
from reports.file_name import file_name
from reports.markdown import as_markdown
from reports.page import build_page
from reports.results import Results, StudyInfo
from reports.storage import Storage
from reports.stored import read_failures, read_records, record_ids

DOCUMENTS: dict[str, Callable[[Results], bytes]] = {
    "html": lambda results: build_page(results).encode(),
    "md": lambda results: as_markdown(results).encode(),
    "csv": lambda results: as_csv(results.table),
    "parquet": lambda results: as_parquet(results.table),
}
FORMATS: tuple[str, ...] = (*DOCUMENTS, *IMAGE_FORMATS)
"""What a report can be written as, images last: they need a browser, and the rest does not wait for one."""
PAPER = StudyInfo("SimCLRv2, as published", "How do model size and label fraction trade off on ImageNet?")


def parse_formats(text: str) -> list[str]:
    """Formats from their names with commas, in the order of `FORMATS`. Raises ValueError for a name that is none."""
    names = {name.strip().lower() for name in text.split(",")}
    for name in sorted(names - set(FORMATS)):
        near = get_close_matches(name, FORMATS, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"--format has {name!r}; expected one or more of {', '.join(FORMATS)}, with commas{hint}")
    return [name for name in FORMATS if name in names]


def read_results(storage: Storage, study: StudyInfo) -> Results:
    """What storage holds now of a study's planned trials; files that are not valid are listed, not read."""
    records, bad_records = read_records(storage, study.planned)
    failures, bad_failures = read_failures(storage, study.planned.keys() - {record.id for record in records})
    return Results(study, records, failures, [*bad_records, *bad_failures])


def state_of(storage: Storage, study: StudyInfo) -> Hashable:
    """What `read_results` depends on: another value means that there is something new. A record never changes."""
    finished = record_ids(storage) & study.planned.keys()
    failures, _ = read_failures(storage, study.planned.keys() - finished)
    return frozenset(finished), frozenset((failure.id, failure.failed_at) for failure in failures)


@cache
def paper_results() -> Results:
    """The paper's numbers as if they were a study's: nothing is planned, nothing failed."""
    return Results(PAPER, paper.records())


def write_report(storage: Storage, results: Results, kind: str = "html", stem: str | None = None) -> list[str]:
    """Write a report in one of the `FORMATS` and return the paths or URLs of its files.

    It goes to STEM.KIND, the stem being a path or URL; without one to `reports/STUDY.KIND` in the storage, the study's
    name as in `file_name`. Images are of every figure that has data, in a folder STEM.

    Raises `export.ImageError` where images cannot be drawn.
    """
    target, folder, name = _target(storage, results.study.name, stem)
    if kind in DOCUMENTS:
        files = {f"{name}.{kind}": DOCUMENTS[kind](results)}
    else:
        drawn = [drawn for group in results.groups for drawn in figures_of(group) if not drawn.need]
        files = as_images({f"{name}/{one.name}.{kind}": one.figure for one in drawn}, cast(ImageFormat, kind))
    return [_write(target, content, *folder, file) for file, content in files.items()]


def write_file(results: Results, destination: str) -> str:
    """Write the one file that a path or URL names, its ending choosing the format, an image's being of the headline
    figure; return its path or URL.

    Raises ValueError for an unknown ending, and `export.ImageError` where an image cannot be drawn.
    """
    kind = {"htm": "html"}.get(ending := PurePosixPath(destination).suffix.lower().removeprefix("."), ending)
    if kind not in FORMATS:
        raise ValueError(f"cannot write a report as {destination!r}; expected a name ending in .{', .'.join(FORMATS)}")
    target, name = _file_of(destination)
    if kind in DOCUMENTS:
        content = DOCUMENTS[kind](results)
    else:
        headline = next(figures_of(results.groups[0])).figure
        content = as_images({name: headline}, cast(ImageFormat, kind))[name]
    return _write(target, content, name)


def _target(storage: Storage, study: str, stem: str | None) -> tuple[Storage, tuple[str, ...], str]:
    if stem is None:
        return storage, ("reports",), file_name(study)
    target, name = _file_of(stem)
    return target, (), name


def _file_of(output: str) -> tuple[Storage, str]:
    """The folder in which a file is to be written, and its name there."""
    if output.endswith("/"):
        raise ValueError(f"--output {output!r} is a folder; write a name behind it, whose ending the formats add")
    folder, _, name = absolute(output).rpartition("/")
    if folder.endswith("/"):
        raise ValueError(f"--output {output!r} is a bucket; write a name behind it, as in {output}/report.html")
    return Storage(folder or "/"), name


def _write(target: Storage, content: bytes, *parts: str) -> str:
    try:
        target.write_bytes(content, *parts)
    except DiskError:
        raise
    except OSError as error:
        raise ValueError(
            f"cannot write {target.uri(*parts)} ({error.strerror or error}); choose another --output or --storage"
        ) from error
    return target.uri(*parts)
