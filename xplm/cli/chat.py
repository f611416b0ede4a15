"""`xplm chat`: a conversation in the terminal, or with a pipe."""

import sys
from typing import Annotated

import typer

from xplm.cli.conversation import Conversation
from xplm.cli.flags import ModelFlags, SamplingFlags, takes_flags
from xplm.cli.history import History
from xplm.cli.messages import Entry, Read, read_entry, read_pipe
from xplm.cli.output import Output, OutputFlags, error_line
from xplm.cli.places import history_file
from xplm.cli.sampling import describe_sampling, note_sampling
from xplm.cli.template_args import TemplateArgs, parse_template_args
from xplm.cli.terminal import Terminal
from xplm.errors import RequestError, XplmError
from xplm.text import renderer


@takes_flags
def chat(
    model: ModelFlags,
    sampling: SamplingFlags,
    output: OutputFlags,
    system: Annotated[str | None, typer.Option(help="The system message.")] = None,
    template_arg: TemplateArgs = None,
) -> None:
    '''Talk with a model.

    At a terminal a line is a message, and so is a pasted text of many lines.
    On a pipe each line is a message. On both, the lines between """ and """
    are one message, a line that ends with a backslash goes on in the next,
    // at the start sends a message that starts with a slash, and /help lists
    the commands.

    Where no flag says otherwise, sampling values are those that the model's
    files suggest. What was computed in earlier turns is kept.

    Example: xplm chat --system "Answer in one sentence." --temperature 0.7
    '''
    sampling.options()
    template_args = parse_template_args(template_arg)
    out = Output(output)
    renderer.start()  # while the weights are read
    lm = model.load(out)
    options = sampling.options(lm.sampling)
    session = lm.chat(system, template_args)
    is_interactive = sys.stdin.isatty()
    if is_interactive:
        out.note(f"{model.model}; /help lists what else you can do")
    if is_interactive or lm.sampling.options or lm.sampling.ignored:
        out.note(f"sampling: {describe_sampling(options, sampling.given, lm.sampling)}")
    note_sampling(out, options, sampling.given, lm.sampling, draws_seed=sampling.draws_seed)

    conversation = Conversation(session, options, out, is_interactive)
    try:
        if is_interactive:
            _converse(conversation, _terminal(out), out)
        else:
            while (entry := _next_entry(read_pipe)) and conversation.take(entry):
                pass
    except BaseException:
        if conversation.has_answers:
            out.result(conversation.as_dict())
        raise
    out.result(conversation.as_dict())


def _converse(conversation: Conversation, terminal: Terminal, out: Output) -> None:
    """Take what is typed, until Ctrl-D. An error loses nothing, and Ctrl-C what is being typed."""
    goes_on = True
    while goes_on:
        try:
            entry = _next_entry(terminal.read)
            if entry is None:
                print(file=sys.stderr)  # after the prompt
                break
            _remember(terminal, entry, out)
            goes_on = conversation.take(entry)
        except KeyboardInterrupt:
            print(file=sys.stderr)
        except XplmError as error:
            print(error_line(str(error)), file=sys.stderr)


def _next_entry(read: Read) -> Entry | None:
    """The next message or command; None at the end of the input."""
    try:
        return read_entry(read)
    except EOFError:
        return None
    except UnicodeDecodeError as error:
        raise RequestError("a message must be UTF-8; convert it first") from error


def _terminal(out: Output) -> Terminal:
    """The terminal, with the history that can be read."""
    path = history_file()
    try:
        return Terminal(History(path) if path else None)
    except RequestError as error:
        out.note(f"no history: {error}")
        return Terminal(None)


def _remember(terminal: Terminal, entry: Entry, out: Output) -> None:
    try:
        terminal.remember(entry.source)
    except RequestError as error:
        out.note(f"no history from here on: {error}")
        terminal.forget()
