"""Checkpoints: tensors and plain values, written atomically to a folder that may be local or on an object store."""

from __future__ import annotations

import io
import uuid
from pathlib import PurePosixPath
from typing import Any

import pyarrow.fs
import torch

from datasets.filesystem import open_filesystem

State = dict[str, Any]


def save_state(uri: str, state: State) -> None:
    """Write tensors, numbers, strings, lists and dictionaries to `uri`; a reader sees the old file or the new one.

    Local files are written under another name and renamed; object stores replace a whole object at once.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    filesystem, path = open_filesystem(uri)
    local = isinstance(filesystem, pyarrow.fs.LocalFileSystem)
    filesystem.create_dir(str(PurePosixPath(path).parent), recursive=True)
    target = f"{path}.{uuid.uuid4().hex}" if local else path
    with filesystem.open_output_stream(target) as stream:
        stream.write(buffer.getbuffer())
    if local:
        filesystem.move(target, path)


def load_state(uri: str) -> State | None:
    """Read what `save_state` wrote, on the CPU; None if there is no such file."""
    filesystem, path = open_filesystem(uri)
    if filesystem.get_file_info(path).type == pyarrow.fs.FileType.NotFound:
        return None
    with filesystem.open_input_file(path) as stream:
        state: State = torch.load(io.BytesIO(stream.read()), map_location="cpu", weights_only=True)
    return state


def delete_states(folder: str, name: str) -> None:
    """Delete a checkpoint, and what interrupted writes of it left behind."""
    filesystem, path = open_filesystem(folder)
    selector = pyarrow.fs.FileSelector(path, allow_not_found=True)
    for info in filesystem.get_file_info(selector):
        if info.base_name == name or info.base_name.startswith(f"{name}."):
            filesystem.delete_file(info.path)
