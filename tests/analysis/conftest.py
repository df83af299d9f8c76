"""The analysis room's tests share made_logs.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
