"""`cupyrec export`: a trained model for other programs."""

from __future__ import annotations

import click

from cupyrec.cli import say
from cupyrec.cli.model_report import describe_files


@click.command()
@click.argument("model", metavar="MODEL")
@click.option("--output", required=True, metavar="DIR", help="Folder to write, new or empty.")
@click.option("--overwrite", is_flag=True, help="Replace an exported model that is in the folder.")
def export(model: str, output: str, overwrite: bool) -> None:
    """Write MODEL, the folder of a trained model or of a checkpoint, as safetensors that PyTorch code can load.

    The tensors have the names of the state dict of the DLRM reference, DLRM_Net: emb_l.T.weight, bot_l.K.weight and
    .bias, top_l.K.weight and .bias, with K = 0, 2, 4, ... for the layers. A large model comes in several files, with
    an index as other programs know it. Weights keep their bits. DLRM_Net itself sums the rows of a bag: a model trained
    with --pooling mean predicts the same there only where each bag has one row.
    """
    from cupyrec.saving.exported_model import export_model

    say(describe_files("exported to", export_model(model, output, overwrite=overwrite)))
