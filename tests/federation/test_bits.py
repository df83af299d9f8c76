"""The result is bit-identical on any number of ranks."""

from __future__ import annotations

import re
import sys
from pathlib import Path

PROGRAM = Path(__file__).parent / "programs" / "hashes.py"


def test_the_final_model_has_the_same_bits_on_1_2_3_and_4_ranks_and_others_with_another_seed(mpirun, federations):
    hashes = {}
    for ranks in (1, 2, 3, 4):
        result = mpirun(ranks, sys.executable, PROGRAM, federations, timeout=300)
        assert result.returncode == 0, result.stderr
        hashes[ranks] = re.findall(r"^sha256 (\w+) (\w+) ([0-9a-f]{64})", result.stdout, re.MULTILINE)
        assert len(hashes[ranks]) == 6
    assert hashes[1] == hashes[2] == hashes[3] == hashes[4]
    assert len({digest for _, _, digest in hashes[1]}) == 6  # each model, method and seed has its own
