"""What every test has: hypothesis settings that suit slow and shared machines.

A deadline for one example measures the machine, so there is none (a test that hangs ends by
pytest-timeout). In CI the examples are the same at every run, so that a change which passed does
not fail later for another reason; elsewhere they are new each time, which finds more.
"""

import os

from hypothesis import HealthCheck, settings

pytest_plugins = ["p2pmq.sim.pytest_plugin"]

settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "default")
