"""`xplm convert`: write a model as a Hugging Face directory."""

from pathlib import Path
from typing import Annotated

import typer

from xplm.checkpoint.convert import check_target
from xplm.checkpoint.convert import convert as convert_checkpoint
from xplm.checkpoint.named import full_name
from xplm.cli.flags import MODEL_HELP, takes_flags
from xplm.cli.output import Output, OutputFlags
from xplm.cli.places import home
from xplm.cli.progress import pull_with_progress


@takes_flags
def convert(
    output: OutputFlags,
    source: Annotated[
        str,
        typer.Argument(metavar="SRC", help=MODEL_HELP),
    ],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The directory to make.")],
    dtype: Annotated[str, typer.Option(help="fp32, fp16 or bf16.")] = "bf16",
    merge: Annotated[
        Path | None, typer.Option(help="Low-rank adapters to add to the weights: a directory.")
    ] = None,
) -> None:
    """Write a model as a Hugging Face directory.

    That is config.json, model.safetensors and tokenizer.json, which transformers loads.

    Example: xplm convert smollm2-135m-instruct:q4_1 ./smollm2-q4_1-bf16 --dtype bf16
    """
    check_target(destination, dtype)
    out = Output(output)
    source_path = pull_with_progress(source, home(), out)
    model = convert_checkpoint(source_path, destination, dtype, adapter=merge)
    if model.is_quantised:
        out.note(
            f"{full_name(source)} holds weights quantised to {model.stored_as}; {destination} holds what they "
            f"decode to, in {dtype}"
        )
    out.line(str(destination))
    out.result({"path": str(destination), "dtype": dtype, "stored_as": model.stored_as})
