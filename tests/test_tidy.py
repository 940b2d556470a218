"""Tidiness: what the project asks of its files and no linter checks.

Each rule is a function from text (or a tree of files) to the places that break it, so that it can
be tried on a line of bad code; the tests of the second half apply the rules to the repository.
"""

import ast
import io
import re
import statistics
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE_ROOTS = ("p2pmq", "tests", "simulations", "examples")
TEXT_SUFFIXES = {"", ".cfg", ".lock", ".md", ".py", ".pyi", ".sh", ".toml", ".txt", ".yaml", ".yml"}

FILE_LINES_MAX = 600
FILE_LINES_MEDIAN_MAX = 200
FUNCTION_LINES_MAX = 70

# Tests of more than one room, or of the repository. Add one only if no room could own it.
CROSS_CUTTING_TESTS = {
    "tests/test_tidy.py",
}
# The folders, likewise: whole meshes in one process, real processes, real hosts, the documents.
CROSS_CUTTING_FOLDERS = {"docs", "examples", "hosts", "mesh", "processes", "simulations"}

# In tests/sim an asyncio.sleep is virtual: it says when something happens, and costs nothing.
VIRTUAL_TIME_FOLDERS = ("tests/sim/", "tests/simulations/")

UNFINISHED = re.compile(r"\b(?:NotImplementedError|TODO|FIXME|XXX)\b")
SUPPRESSION = re.compile(
    r"#\s*(?:type:\s*ignore|(?:ruff:\s*|flake8:\s*)?noqa)\b(?P<rest>.*)", re.IGNORECASE
)
CODE_AND_REASON = re.compile(r"(?>\[[\w, -]+\]|:\s*[A-Z]+\d+(?:[, ]+[A-Z]+\d+)*)\W*[A-Za-z`]{2}")
# Written in pieces, or this file would break its own rule.
WORKPLACE = re.compile(
    r"(?<!\w)\.lib" + r"rary\b"
    r"|(?<![\w.~-])/(?:wo" + r"rk|ro" + r"ot|opt/wheels|opt/pypi)(?![\w-])"
    r"|pypi\.o" + r"rg|pythonhosted\.o" + r"rg|npmjs\.o" + r"rg|debian\.o" + r"rg"
)
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s[^)]*)?\)")
LINK_DEFINITION = re.compile(r"^\s{0,3}\[[^\]]+\]:\s+<?(\S+?)>?(?:\s|$)")
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*\s*$")
FENCE = re.compile(r"^\s*(```|~~~)")


# -------------------------------------------------------------------------------------- the rules


def long_functions(source: str) -> Iterator[str]:
    """Functions of more than FUNCTION_LINES_MAX lines, as "line: name has n lines"."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield f"{node.lineno}: {node.name} has {lines} lines"


def literal_sleeps(source: str, *, virtual_time: bool = False) -> Iterator[str]:
    """Calls of `time.sleep` or `asyncio.sleep` with a positive literal."""
    tree = ast.parse(source)
    module: str
    imported = {
        (alias.asname or alias.name): node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in {"time", "asyncio"}
        for alias in node.names
        if alias.name == "sleep"
    }
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=("time" | "asyncio") as owner), attr="sleep"),
                args=[ast.Constant(value=int() | float() as seconds), *_],
            ) if seconds > 0:
                module = owner
            case ast.Call(
                func=ast.Name(id=name), args=[ast.Constant(value=int() | float() as seconds), *_]
            ) if name in imported and seconds > 0:
                module = str(imported[name])
            case _:
                continue
        if not (virtual_time and module == "asyncio"):
            yield f"{node.lineno}: {module}.sleep({seconds})"


def bare_suppressions(source: str) -> Iterator[str]:
    """Comments that silence a checker without naming the rule and the reason."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        found = SUPPRESSION.search(token.string)
        if found and not CODE_AND_REASON.match(found["rest"]):
            yield f"{token.start[0]}: {token.string}"


def matching_lines(text: str, pattern: re.Pattern[str]) -> Iterator[str]:
    """Lines in which `pattern` is found, as "line: text"."""
    for number, line in enumerate(text.splitlines(), 1):
        if pattern.search(line):
            yield f"{number}: {line.strip()[:80]}"


def mirrors(test: str, modules: set[str]) -> bool:
    """Whether tests/<room>/test_<name>.py names something in p2pmq/<room>, loosely.

    `modules` are the dotted names below p2pmq ("core", "core.ring"). The name may be that of the
    room, of a module or package in it, or either with a tail (test_ring_balance.py).
    """
    *rooms, file_name = Path(test).with_suffix("").parts[1:]
    name = file_name.removeprefix("test_")
    if rooms and rooms[0] in CROSS_CUTTING_FOLDERS:
        return True
    room = ".".join(rooms)
    if room and room not in modules:
        return False
    inside = [module for module in modules if f"{module}.".startswith(f"{room}.")]
    stems = (
        {module.rpartition(".")[2] for module in inside}
        if room
        else {module for module in modules if "." not in module}
    )
    return any(name == stem or name.startswith(f"{stem}_") for stem in stems)


def prose_lines(markdown: str) -> Iterator[tuple[int, str]]:
    """The numbered lines of a Markdown text outside its blocks of code."""
    in_code = False
    for number, line in enumerate(markdown.splitlines(), 1):
        if FENCE.match(line):
            in_code = not in_code
        elif not in_code:
            yield number, line


def anchors(markdown: str) -> set[str]:
    """The anchors that a Markdown viewer makes of the headings: lower case, dashes for spaces."""
    result: set[str] = set()
    for _, line in prose_lines(markdown):
        heading = HEADING.match(line)
        if heading is None:
            continue
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])
        base = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        anchor, repeat = base, 0
        while anchor in result:
            repeat += 1
            anchor = f"{base}-{repeat}"
        result.add(anchor)
    return result


def broken_links(page: Path) -> Iterator[str]:
    """Links of a Markdown page to a file or a heading that is not there; the web is not asked."""
    for number, line in prose_lines(read(page)):
        text = re.sub(r"`[^`]*`", "", line)
        for target in LINK.findall(text) + LINK_DEFINITION.findall(text):
            if re.match(r"[a-z][a-z+.-]*:", target):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path) if path else page
            if not file.exists():
                yield f"{number}: {target} is not there"
            elif anchor and file.suffix == ".md" and anchor not in anchors(read(file)):
                yield f"{number}: {target}: no such heading"


# ----------------------------------------------------------------------------------- the repository


def text_files() -> list[Path]:
    """Every text file of the project, what was built or cached left out."""
    found = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in (*CODE_ROOTS, "docs", ".ci"):
        found += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    return sorted(
        path for path in found if path.suffix in TEXT_SUFFIXES and "__pycache__" not in path.parts
    )


def python_files(*folders: str) -> list[Path]:
    """The Python files below `folders`, in order."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    """The path as seen from the top of the repository."""
    return path.relative_to(ROOT).as_posix()


def read(path: Path) -> str:
    """The text of a file."""
    return path.read_text(encoding="utf-8", errors="replace")


def refuse(offences: list[str], advice: str) -> None:
    """Fail with all offences and with what to do about them."""
    if offences:
        pytest.fail("\n".join([advice, *(f"  {offence}" for offence in offences)]), pytrace=False)


def test_no_file_is_too_long() -> None:
    lines = {name_of(path): len(read(path).splitlines()) for path in python_files(*CODE_ROOTS)}
    refuse(
        [f"{name}: {count} lines" for name, count in lines.items() if count > FILE_LINES_MAX],
        f"A file over {FILE_LINES_MAX} lines is a sign of a missing room: find the noun that is "
        "hidden in it, and give it a file of its own.",
    )


def test_most_files_are_short() -> None:
    counts = {path: len(read(path).splitlines()) for path in python_files(*CODE_ROOTS)}
    median = statistics.median(counts.values())
    longest = sorted(counts, key=lambda path: -counts[path])[:10]
    refuse(
        [f"{name_of(path)}: {counts[path]} lines" for path in longest]
        if median > FILE_LINES_MEDIAN_MAX
        else [],
        f"The median file has {median} lines, more than {FILE_LINES_MEDIAN_MAX}: part some of the "
        "longest.",
    )


def test_no_function_is_too_long() -> None:
    refuse(
        [
            f"{name_of(path)}:{offence}"
            for path in python_files(*CODE_ROOTS)
            for offence in long_functions(read(path))
        ],
        f"A function over {FUNCTION_LINES_MAX} lines does more than one thing: name its steps, and "
        "make each a function.",
    )


def test_nothing_is_left_unfinished() -> None:
    refuse(
        [
            f"{name_of(path)}:{offence}"
            for path in python_files("p2pmq")
            for offence in matching_lines(read(path), UNFINISHED)
        ],
        "Finish it, or take it out and open an issue: what is in p2pmq/ works.",
    )


def test_no_test_sleeps_where_it_could_wait_for_an_event() -> None:
    refuse(
        [
            f"{name_of(path)}:{offence}"
            for path in python_files("tests")
            for offence in literal_sleeps(
                read(path), virtual_time=name_of(path).startswith(VIRTUAL_TIME_FOLDERS)
            )
        ],
        "A sleep is too long on a fast machine and too short on a slow one: wait for an event or "
        "poll for the state that the test is about, with a time limit.",
    )


def test_every_suppression_names_its_rule_and_its_reason() -> None:
    refuse(
        [
            f"{name_of(path)}:{offence}"
            for path in python_files(*CODE_ROOTS)
            for offence in bare_suppressions(read(path))
        ],
        "Write `# noqa: S311 - why`, or `# type: ignore[code]  # why`; better, mend the cause.",
    )


def test_every_module_has_a_docstring() -> None:
    refuse(
        [
            name_of(path)
            for path in python_files(*CODE_ROOTS)
            if not ast.get_docstring(ast.parse(read(path)))
        ],
        "Say at the top of the module what it is, why it is so, and what always holds in it.",
    )


def test_nothing_names_the_machine_it_was_written_on() -> None:
    refuse(
        [
            f"{name_of(path)}:{offence}"
            for path in text_files()
            for offence in matching_lines(read(path), WORKPLACE)
        ],
        "These lines name a path or a host of one workplace: make the path relative to the "
        "project, and leave package registries to the configuration of the machine.",
    )


def test_every_test_file_mirrors_a_module() -> None:
    modules = {
        ".".join(path.relative_to(ROOT / "p2pmq").with_suffix("").parts).removesuffix(".__init__")
        for path in python_files("p2pmq")
    }
    refuse(
        [
            name
            for name in map(name_of, python_files("tests"))
            if Path(name).name.startswith("test_")
            and name not in CROSS_CUTTING_TESTS
            and not mirrors(name, modules)
        ],
        "tests/<room>/test_<name>.py tests p2pmq/<room>/<name>.py (a tail such as _limits may "
        "follow): rename it, or list it in CROSS_CUTTING_TESTS if it belongs to no room.",
    )


def test_links_between_documents_resolve() -> None:
    refuse(
        [
            f"{name_of(page)}:{offence}"
            for page in text_files()
            if page.suffix == ".md"
            for offence in broken_links(page)
        ],
        "Mend the link, or write the page or heading that it promises.",
    )


# ---------------------------------------------------------------------------------- the rules bite


def test_a_long_function_is_found() -> None:
    body = "    pass\n" * (FUNCTION_LINES_MAX - 1)
    assert not list(long_functions("def f():\n" + body))
    assert list(long_functions("async def f():\n" + body + "    pass\n"))


@pytest.mark.parametrize(
    ("source", "virtual_time", "found"),
    [
        ("time.sleep(1)", False, True),
        ("await asyncio.sleep(0.05)", False, True),
        ("from time import sleep as nap\nnap(2)", False, True),
        ("asyncio.sleep(0)", False, False),
        ("asyncio.sleep(delay)", False, False),
        ("clock.sleep(3)", False, False),
        ("asyncio.sleep(3)", True, False),
        ("time.sleep(3)", True, True),
    ],
)
def test_a_sleep_is_found(source: str, virtual_time: bool, found: bool) -> None:
    assert bool(list(literal_sleeps(source, virtual_time=virtual_time))) is found


@pytest.mark.parametrize(
    ("comment", "found"),
    [
        ("# no" + "qa", True),
        ("# ruff: no" + "qa", True),
        ("# no" + "qa: S311", True),
        ("# no" + "qa: S311, PLR2004", True),
        ("# type: ig" + "nore", True),
        ("# type: ig" + "nore[attr-defined]", True),
        ("# no" + "qa: S311 - the seed is the test's", False),
        ("# no" + "qa: S311, PLR2004  # the seed is the test's", False),
        ("# type: ig" + "nore[attr-defined]  # has no stubs", False),
        ("# a comment", False),
    ],
)
def test_a_bare_suppression_is_found(comment: str, found: bool) -> None:
    assert bool(list(bare_suppressions(f"x = 1  {comment}\n"))) is found


@pytest.mark.parametrize(
    ("test", "mirrored"),
    [
        ("tests/core/test_ring.py", True),
        ("tests/core/test_ring_balance.py", True),
        ("tests/core/test_core.py", True),
        ("tests/core/test_packets.py", True),
        ("tests/core/packets/test_link.py", True),
        ("tests/test_errors.py", True),
        ("tests/core/test_rings.py", False),
        ("tests/net/test_ring.py", False),
        ("tests/cellar/test_ring.py", False),
        ("tests/test_ring.py", False),
    ],
)
def test_a_test_without_a_module_is_found(test: str, mirrored: bool) -> None:
    modules = {"errors", "core", "core.ring", "core.packets", "core.packets.link", "net"}
    assert mirrors(test, modules) is mirrored


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A heading: `so` it is\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "[ok](other.md) [ok](other.md#a-heading-so-it-is) [web](https://example.org/x)\n"
        "[gone](nowhere.md) ![gone](nowhere.png) [gone](other.md#no-such)\n"
        "```\n[code](nowhere.md)\n```\n`[code](nowhere.md)`\n[ref]: nowhere.md\n",
        encoding="utf-8",
    )
    assert len(list(broken_links(page))) == 4
