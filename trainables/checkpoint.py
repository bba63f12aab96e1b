"""Checkpoints: tensors and plain values, written atomically to a folder that may be local or on an object store."""

from __future__ import annotations

import io
import os
import pickle
import uuid
from pathlib import Path
from typing import Any

import pyarrow.fs
import torch

from datasets.filesystem import open_filesystem

State = dict[str, Any]


def save_state(uri: str, state: State) -> None:
    """Write tensors, numbers, strings, lists and dictionaries to `uri`; a reader sees the old file or the new one.

    Local files are written under another name, to the disk, and renamed; object stores replace a whole object at once.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    filesystem, path = open_filesystem(uri)
    if not isinstance(filesystem, pyarrow.fs.LocalFileSystem):
        with filesystem.open_output_stream(path) as stream:
            stream.write(buffer.getbuffer())
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}")
    with partial.open("wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())  # otherwise a power cut may leave the new name on an empty file
    partial.replace(target)


def load_state(uri: str) -> State | None:
    """Read what `save_state` wrote, on the CPU; None if there is no such file.

    Raises:
        ValueError: the file is broken.
    """
    filesystem, path = open_filesystem(uri)
    if filesystem.get_file_info(path).type == pyarrow.fs.FileType.NotFound:
        return None
    with filesystem.open_input_file(path) as stream:
        content = stream.read()
    try:
        state: State = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{uri} is not a readable checkpoint ({error}); delete it: after a latest.pt the trial begins anew, after "
            "a model.pt once its record is deleted too"
        ) from error
    return state


def delete_states(folder: str, *prefixes: str) -> None:
    """Delete the files of a folder whose names begin in one of these ways."""
    filesystem, path = open_filesystem(folder)
    selector = pyarrow.fs.FileSelector(path, allow_not_found=True)
    for info in filesystem.get_file_info(selector):
        if info.base_name.startswith(prefixes):
            filesystem.delete_file(info.path)
