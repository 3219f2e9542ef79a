"""For all tests: `tests/support` on the path, what JAX compiles kept for the next run, no deadlines of Hypothesis."""

import os
import sys
from pathlib import Path

import hypothesis

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS / "support"))

# The workers of one run share it too. Set before anything imports JAX.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(TESTS.parent / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")

# How long an example takes says more about the machine than about the code; pytest-timeout ends what hangs.
hypothesis.settings.register_profile("mvjax", deadline=None)
hypothesis.settings.load_profile("mvjax")
