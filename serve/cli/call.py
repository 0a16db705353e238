import typer

app = typer.Typer(help="Call.")
