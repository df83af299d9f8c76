"""What a prepared data set holds, as one number: a run that goes on must read the examples that it began with."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from raffm_mpi.files import file_sha256

FILE = "fingerprint.txt"
STORED = (".npy", ".arrow")


def save_fingerprint(folder: Path, meaning: Any) -> None:
    """Write the SHA-256 of the stored files, by name, and of what they mean (anything that JSON takes)."""
    files = {path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.suffix in STORED}
    fingerprint = hashlib.sha256(json.dumps([meaning, files], sort_keys=True).encode()).hexdigest()
    (folder / FILE).write_text(fingerprint, encoding="utf-8")


def load_fingerprint(folder: Path) -> str:
    """The fingerprint of a prepared folder, in hexadecimal."""
    return (folder / FILE).read_text(encoding="utf-8")
