"""Fixtures of the command line's tests."""

import logging
from collections.abc import Iterator

import pytest

from tests.cli.kit import Mesh, running_mesh


@pytest.fixture(autouse=True)
def _log_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands set the library's log up; in one process with other tests that must not stay."""
    for variable in ("P2PMQ_MESH", "P2PMQ_SEEDS", "P2PMQ_NO_MDNS", "P2PMQ_INSECURE", "P2PMQ_ZONE"):
        monkeypatch.delenv(variable, raising=False)
    logger = logging.getLogger("p2pmq")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Three daemons for all tests that kill none of them; each test has queues of its own."""
    with running_mesh(tmp_path_factory.mktemp("mesh")) as mesh:
        yield mesh
