"""The command where its extra is missing."""

import sys

import pytest

from p2pmq.cli import main


@pytest.mark.parametrize("missing", ["typer", "rich.table"])
def test_without_the_extra_it_says_what_to_install(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("p2pmq.cli.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert f"needs {missing}" in str(ended.value)
    assert 'pip install "p2pmq[cli]"' in str(ended.value)
