"""``rblite completion``: what a shell needs to complete commands, options, names of the catalogue and files."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class
from click.types import StringParamType

from robustbench_lite.core.errors import UserError
from robustbench_lite.faces.cli import output

SHELLS = {
    "bash": "~/.bashrc",
    "zsh": "~/.zshrc",
    "fish": "~/.config/fish/completions/rblite.fish",
}
"""The shells, and where each reads it from."""

_VARIABLE = "_RBLITE_COMPLETE"
_NAMES = {"suite": "suites", "search_suite": "suites", "recipe": "recipes", "recipes": "recipes", "form": "reports"}
_NAMES |= {"measures": "measures", "source": "data"}
_FILES = ("FILE", "PATH", "CARD", "BEFORE", "AFTER", "DIR", "MODEL")


class Known(StringParamType):
    """A text that the shell completes: to names of the catalogue, to files, or to both."""

    def __init__(self, kind: str | None) -> None:
        self._kind = kind

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Names that begin so; where there is none, files."""
        try:
            found = [name for name in _names(self._kind) if name.startswith(incomplete)]
        except UserError:  # a table of the user's that can't be read: the command will tell
            found = []
        return [CompletionItem(name) for name in found] or [CompletionItem(incomplete, type="file")]


def _names(kind: str | None) -> list[str]:
    from robustbench_lite.core import registry

    if kind is None:
        return []
    if kind == "data":
        return ["digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "imagenet", "imagefolder:", "npz:", "csv:"]
    return [name.removesuffix("*") for name in registry.names(kind)]


def completed(command: click.Command) -> click.Command:
    """Give the texts among a command's parameters what the shell completes them to."""
    for parameter in command.params:
        shown = (parameter.make_metavar(click.Context(command)) or "").strip("[]").upper()
        if isinstance(parameter.type, StringParamType):
            kind = _NAMES.get(str(parameter.name))
            if kind or shown.startswith(_FILES):
                parameter.type = Known(kind)
    return command


@click.command()
@click.argument("shell", type=click.Choice(list(SHELLS)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes a shell complete rblite's commands, options and names.

    For bash: rblite completion bash >> ~/.bashrc; for zsh: >> ~/.zshrc; for fish: >
    ~/.config/fish/completions/rblite.fish. Then open a new shell.
    """
    made = get_completion_class(shell)
    assert made is not None  # click has checked the name
    click.echo(made(context.find_root().command, {}, "rblite", _VARIABLE).source())
    output.say(f"# Put it into {SHELLS[shell]}, and open a new shell.")
