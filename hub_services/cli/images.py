"""``dcloud images``: build what the profiles name, with a bar for each image."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from dcloud_spawner.images import ImageState, ImageStatus, ImageStore, wanted_images
from hub_services.cli.deployment import Deployment


def build(console: Console, deployment: Deployment, names: Sequence[str], *, force: bool) -> bool:
    """Prepare recipes one after the other (those that the profiles name if none is given).

    Waits while the builder that ``up`` started is at work. Returns whether all are ready.
    Raises ConfigurationError for an unknown recipe, EngineUnreachable without an engine.
    """
    settings = deployment.settings
    if settings.engine == "sandbox":
        console.print("The sandbox engine uses no images.")
        return True
    store = ImageStore(settings)
    complete = True
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[step]}", style="dim"),
    )
    with Progress(*columns, console=console) as bars:
        for name in names or wanted_images(settings):
            bar = bars.add_task(name, total=1.0, step="waiting for its turn")

            def advance(status: ImageStatus, bar: object = bar) -> None:
                bars.update(bar, completed=status.progress, step=status.message)  # type: ignore[arg-type]

            status = store.prepare(name, advance, force=force)
            ready = status.state is ImageState.READY
            complete = complete and ready
            bars.update(bar, completed=status.progress, step="ready" if ready else status.message)
            if not ready and status.tail:
                bars.console.print(status.tail, markup=False, highlight=False)
    return complete
