"""What is wrong with a command line, in the one line that every other error takes: the problem, the fix, exit code 2.

    error: there is no option '--ouut'. Did you mean '--out'? `vesalius segment --help` shows all.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from typing import Any, cast

import typer
from typer.core import TyperGroup

from ..core.errors import InputError, UnknownName, unknown_name
from .console import Terminal, report

# Typer brings click's exceptions, those of the library or a copy of its own: both are found by the one that it shows.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


class Verbs(TyperGroup):
    """A group of verbs whose usage errors are told as all others are."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the verb in `args`; exits, unless not `standalone_mode`."""
        words = list(sys.argv[1:] if args is None else args)
        try:
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except (InputError, UsageError) as error:
            if not standalone_mode:
                raise
            if type(error).__name__ == "NoArgsIsHelpError":  # the message is the help
                cast(Any, error).show()
                sys.exit(2)
            screen = Terminal(quiet=False, json="--json" in words, debug=False)
            verb = words[0] if words and words[0] in self.commands else ""
            code = report(error if isinstance(error, InputError) else explained(error, words, f"vesalius {verb}".strip()), screen)
        except typer.Abort:
            if not standalone_mode:
                raise
            code = 1
        if not standalone_mode:
            return code
        sys.exit(code if isinstance(code, int) else 0)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The verb and what is behind it; UnknownName with the nearest where there is none of that name."""
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            unknown = unknown_name("verb", args[0], self.list_commands(ctx))
            raise UnknownName(unknown.problem, fix=f"{unknown.fix}. {_more(ctx.command_path)}")
        return super().resolve_command(ctx, args)


def explained(error: Any, words: Sequence[str], path: str) -> InputError:
    """A usage error of typer's in our words. `words` are the command line's, `path` is its verb where the error has none."""
    context = error.ctx
    more = _more(context.command_path if context else path)
    parameter = getattr(error, "param", None)
    if hasattr(error, "possibilities"):  # NoSuchOption
        return InputError(f"there is no option '{error.option_name}'", fix=f"{_meant(error.option_name, context)}{more}")
    if hasattr(error, "param_type") and parameter is not None:  # MissingParameter
        about = f": {parameter.help.rstrip('.')}" if getattr(parameter, "help", None) else ""
        return InputError(f"{_name(parameter)} is missing{about}", fix=more)
    if parameter is not None:  # BadParameter
        value = _value(parameter, words)
        told = _lowered(error.message.removeprefix("Value error, "))
        given = f"'{value}' does not suit " if value and f"'{value}'" not in told else ""
        return InputError(f"{given}{_name(parameter)}: {told}", fix=more)
    if getattr(error, "option_name", None):  # BadOptionUsage: no value behind it, or one too many
        return InputError(_lowered(error.message), fix=more)
    quote = "put a name that holds spaces in quotes; " if "extra argument" in error.message else ""
    return InputError(_lowered(error.message), fix=f"{quote}{more}")


def _more(path: str) -> str:
    return f"`{path} --help` shows all"


def _meant(name: str, context: Any) -> str:
    """A hint at the option that was meant, or that it belongs behind a verb; or nothing."""
    if context is None:
        return ""
    known = {option.lstrip("-"): option for option in _options(context.command)}
    if near := difflib.get_close_matches(name.lstrip("-"), known, n=1, cutoff=0.6):
        return f"did you mean '{known[near[0]]}'? "
    verbs = getattr(context.command, "commands", {}).values()
    return "write it behind the verb; " if any(name in _options(verb) for verb in verbs) else ""


def _options(command: Any) -> list[str]:
    """Every option of a verb, as it is written."""
    return [name for each in command.params if each.param_type_name == "option" for name in (*each.opts, *each.secondary_opts)]


def _name(parameter: Any) -> str:
    """INPUT, or --out (-o)."""
    if parameter.param_type_name == "argument":
        return str(parameter.name).upper()
    long, *short = sorted(parameter.opts, key=len, reverse=True)
    return f"{long} ({', '.join(short)})" if short else long


def _value(parameter: Any, words: Sequence[str]) -> str | None:
    """What stands behind the option on the command line; None for arguments, whose place is not known."""
    for word, behind in zip(words, [*words[1:], ""], strict=True):
        if word in parameter.opts:
            return behind
        for option in parameter.opts:
            if word.startswith(f"{option}="):
                return word.removeprefix(f"{option}=")
    return None


def _lowered(sentence: str) -> str:
    return (sentence[:1].lower() + sentence[1:]).rstrip(".")
