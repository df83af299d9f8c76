"""The log room's tests share run_logs.py, which is also the program that they kill and starve of disk space."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
