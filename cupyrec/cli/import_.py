"""`cupyrec import`: a model from weights with the names of the DLRM reference."""

from __future__ import annotations

import click

from cupyrec.cli import say
from cupyrec.cli.model_report import describe_shape


@click.command("import")
@click.argument("path", metavar="PATH")
@click.option("--output", required=True, metavar="DIR", help="Folder for the model, new or empty.")
@click.option(
    "--pooling",
    type=click.Choice(["sum", "mean"]),
    help="How the rows of a bag become one vector, where the file does not say it.  [default: sum]",
)
@click.option("--overwrite", is_flag=True, help="Replace a model that is in the folder.")
def import_(path: str, output: str, pooling: str | None, overwrite: bool) -> None:
    """Make a model that can be evaluated and exported of a DLRM's weights from elsewhere.

    PATH is a .safetensors file, or a folder with model.safetensors or its shards and index, with the names of the state
    dict of the DLRM reference; see `cupyrec export`. Tables, widths and the interaction follow from the shapes. How
    raw values became ids for that model cupyrec cannot know: evaluate it on data prepared in the same way.
    """
    from cupyrec.saving.exported_model import import_model

    config = import_model(path, output, pooling=pooling, overwrite=overwrite)
    say(f"imported {describe_shape(config)}")
    say(f"saved in {output}")
