"""`quantbench init MODEL`"""

import argparse
import json
import sys
from pathlib import Path

from configs.errors import QuantbenchError, RequestError
from configs.loading import load_yaml_model
from pipelines.planning.device import detect_machine
from pipelines.planning.first_recipe import FirstRecipe
from pipelines.planning.recipe_text import text_of
from pipelines.recipe.run_config import RunConfig
from quantizers.checkpoints.first_look import outline_of, source_named

HELP = "write a first recipe that fits a model and this machine, with a comment at each choice"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, and where the recipe goes."""
    parser.add_argument(
        "model", help="a folder, a .gguf file, an installed package that holds one, or a hub id: org/name[@revision]"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("recipe.yaml"), metavar="FILE", help="default: ./recipe.yaml"
    )


def execute(args: argparse.Namespace) -> int:
    """Write it; 2 when the model is refused or the file is there already."""
    _refuse_existing(args.output)
    source = source_named(args.model)
    recipe = FirstRecipe(source, outline_of(source), detect_machine())
    _write(args.output, text_of(recipe))
    for text in recipe.warnings:
        print(f"warning: {text}", file=sys.stderr)
    if args.json:
        told = {"recipe": str(args.output), "methods": recipe.methods, "left_out": recipe.left_out}
        print(json.dumps(told | {"warnings": recipe.warnings}, indent=2))
        return 0
    print(f"{args.output} is written: {', '.join(recipe.methods)}")
    for name, why in recipe.left_out.items():
        print(f"left out: {name}: {why}")
    print(f"next: quantbench plan {args.output}, quantbench run {args.output}")
    return 0


def _write(output: Path, text: str) -> None:
    """Write a new file, and read it as `run` does."""
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        _refuse_existing(output)
    except OSError as error:
        raise RequestError(
            f"cannot write {output}: {error.strerror}", remedy="name another place with --output"
        ) from error
    try:
        load_yaml_model(output, RunConfig)
    except QuantbenchError:
        output.unlink()
        raise


def _refuse_existing(output: Path) -> None:
    if output.exists() or output.is_symlink():
        raise RequestError(
            f"{output} is there already", remedy="name another file with --output, or move this one away"
        )
