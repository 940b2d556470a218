"""Options that are dataclasses come to a command whole."""

from typing import Annotated

import typer
from typer.testing import CliRunner

from p2pmq.cli.options import MeshOptions, flattened

app = typer.Typer()


@app.command()
@flattened
def show(word: Annotated[str, typer.Argument()], mesh: MeshOptions, *, loud: bool = False) -> None:
    """Print what came."""
    typer.echo(f"{word} {mesh.mesh} {mesh.seeds} {mesh.no_mdns} {loud}")


def test_fields_are_options_beside_the_commands_own() -> None:
    args = ["hi", "--mesh", "m", "--seed", "a:1", "--seed", "b:2", "--no-mdns", "--loud"]
    result = CliRunner().invoke(app, args)
    assert result.output == "hi m ('a:1', 'b:2') True True\n"


def test_defaults_of_fields_hold() -> None:
    assert CliRunner().invoke(app, ["hi"]).output == "hi default () False False\n"


def test_variables_stand_in_for_options_and_part_seeds_by_commas_or_blanks() -> None:
    env = {"P2PMQ_MESH": "m", "P2PMQ_SEEDS": "a:1,b:2 c:3", "P2PMQ_NO_MDNS": "1"}
    result = CliRunner().invoke(app, ["hi"], env=env)
    assert result.output == "hi m ('a:1', 'b:2', 'c:3') True False\n"
