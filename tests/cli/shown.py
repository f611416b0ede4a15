"""Flags of the command lines that documentation shows."""

import typer

from xplm.cli.main import make_app


def flags_of(command):
    """The flags of a command line's command, from the program itself."""
    node = typer.main.get_command(make_app())
    for word in command.split()[1:]:
        commands = getattr(node, "commands", {})
        if word not in commands:
            node = commands.get("task", node)  # of `xplm eval`, whose other words name tasks
            break
        node = commands[word]
    is_group = hasattr(node, "commands") and not node.invoke_without_command
    assert not is_group, f"{command} names no command"
    return {name for parameter in node.params for name in parameter.opts if name[:2] == "--"}
