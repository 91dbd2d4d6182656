"""Reads safetensors files with numpy alone: eight bytes of the header's length, the header in JSON, the data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

TYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32, "U8": np.uint8,
    "BOOL": np.bool_,
}


def read(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """The file's metadata and its tensors."""
    content = Path(path).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        values = np.frombuffer(content[8 + length + first : 8 + length + last], dtype=TYPES[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"]).copy()
    return metadata, tensors
