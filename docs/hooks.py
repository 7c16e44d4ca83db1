"""What mkdocs does besides pages: navigation, and the reference of public names and commands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

SECTIONS = {
    "Tutorial": ("tutorial",),
    "How to": (
        "inputs",
        "bad-tiles",
        "sharing",
        "cluster",
        "scale",
        "transforms",
        "sections",
        "nornir",
    ),
    "Explanation": ("how-it-works", "accuracy", "trust", "performance", "architecture"),
    "Reference": ("commands", "reference"),
}
"""Pages in the order of the navigation; a page that is not there is left out."""


def on_config(config: Any) -> Any:
    """Navigation: the sections above, and whatever other page lies in the folder."""
    found = {p.stem for p in Path(config["docs_dir"]).glob("*.md")}
    nav: list[Any] = ["index.md"]
    for title, pages in SECTIONS.items():
        nav.append({title: [f"{page}.md" for page in pages if page in found]})
    placed = {"index", *(page for pages in SECTIONS.values() for page in pages)}
    others = sorted(found - placed)
    if others:
        nav.append({"More": [f"{page}.md" for page in others]})
    config["nav"] = [part for part in nav if part == "index.md" or any(part.values())]
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the reference; links that lead out of the site become the name of the file."""
    if "{{ names }}" in markdown:
        markdown = markdown.replace("{{ names }}", names_reference())
    if "{{ commands }}" in markdown:
        markdown = markdown.replace("{{ commands }}", commands_reference())
    return re.sub(r"\[([^\]]+)\]\(\.\./([^)]+)\)", r"\1 (`\2` in the repository)", markdown)


def names_reference() -> str:
    """A directive of mkdocstrings for every public name."""
    import mosaicreg

    homes = mosaicreg._HOME
    names = sorted(mosaicreg.__all__, key=str.lower)
    return "\n".join(
        f"::: mosaicreg.{homes.get(name, name)}.{name}" for name in names if name in homes
    )


def commands_reference() -> str:
    """Every command's help."""
    import click

    from mosaicreg.cli import main

    top = click.Context(main, info_name="mosaicreg")
    parts = []
    for name in main.list_commands(top):
        command = main.get_command(top, name)
        assert command is not None
        with click.Context(command, info_name=name, parent=top, max_content_width=90) as context:
            context.terminal_width = 90
            parts.append(f"## mosaicreg {name}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)
