"""Puts `tests/support`, helpers that the rooms' tests share, on the path; keeps what JAX compiles for the next run."""

import os
import sys
from pathlib import Path

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS / "support"))

# The workers of one run share it too. Set before anything imports JAX.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(TESTS.parent / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")
