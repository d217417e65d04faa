"""The command `cache`."""

import datetime
from typing import Annotated

import typer

from kgen.cli.common import Json, app, make_table, print_result


@app.command("cache")
def cache_(
    prune: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Remove what was not used for longest, until no more than SIZE is kept: 5GB, or "
            "0 for nothing.",
        ),
    ] = None,
    as_json: Json = False,
):
    """Show the cache of decoded images and features, or make room.

    It is in KGEN_CACHE_DIR, or in the user's cache folder, and keeps itself
    below KGEN_CACHE_LIMIT (20GB; none for no limit). Whatever is removed is
    made anew when it is wanted.

    Example: kgen cache

    Example: kgen cache --prune 5GB
    """
    from kgen.data import cache

    folder, limit = cache.default_folder().expanduser(), cache.limit()
    removed = []
    if prune is not None:
        removed = cache.prune(folder, cache.parse_size("--prune", prune))
    items = cache.kept(folder)
    total, freed = (sum(item.size for item in which) for which in (items, removed))

    def used(item):
        time = datetime.datetime.fromtimestamp(item.used, datetime.UTC)
        return time.isoformat(timespec="seconds")

    most = "no limit" if limit is None else f"limit {cache.shown(limit)}"
    lines = [f"{folder}: {cache.shown(total)}, {most}"]
    if items:
        rows = [
            (item.path.relative_to(folder), cache.shown(item.size), used(item)) for item in items
        ]
        lines.append(make_table("kept", "size", "last used", rows=rows))
    if prune is not None:
        lines.append(f"Removed: {len(removed)}, {cache.shown(freed)}")
    print_result(
        {
            "folder": str(folder),
            "limit": limit,
            "size": total,
            "kept": [
                {"path": str(item.path), "size": item.size, "used": used(item)} for item in items
            ],
            "removed": [str(item.path) for item in removed],
        },
        as_json,
        *lines,
    )
