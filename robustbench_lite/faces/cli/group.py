"""The group of commands: it says what went wrong in plain words, and ends with the right exit code."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import click

import robustbench_lite
from robustbench_lite.core.errors import UserError
from robustbench_lite.faces.cli import processes, signals
from robustbench_lite.faces.cli.attest import attest
from robustbench_lite.faces.cli.auto import auto
from robustbench_lite.faces.cli.cache import cache
from robustbench_lite.faces.cli.calibrate import calibrate
from robustbench_lite.faces.cli.compare import compare
from robustbench_lite.faces.cli.completion import completed, completion
from robustbench_lite.faces.cli.demo import demo
from robustbench_lite.faces.cli.doctor import doctor
from robustbench_lite.faces.cli.evaluate import evaluate
from robustbench_lite.faces.cli.explain import explain
from robustbench_lite.faces.cli.export import export
from robustbench_lite.faces.cli.federate import federate
from robustbench_lite.faces.cli.harden import harden
from robustbench_lite.faces.cli.init import init
from robustbench_lite.faces.cli.list import list_
from robustbench_lite.faces.cli.output import EXIT_CRASH, EXIT_PIPE, EXIT_USAGE, NO_ROOM, say
from robustbench_lite.faces.cli.report import report
from robustbench_lite.faces.cli.tune import tune

_HELP = """How much of a model's accuracy survives an adversary.

\b
Exit codes:
  0    PASS: every gate is met; MEASURED: no gate was set; UNDECIDED: too few
       samples to tell (1 with --strict)
  1    FAIL: a gate is missed by its whole interval
  2    wrong input
  3    INVALID: the evaluation can't be trusted
  4    unexpected error
  130  interrupted (Ctrl-C)
  141  whoever read the output closed it early
  143  interrupted (SIGTERM)

What is trusted: MODEL and module:callable data are code that is run. So is a
folder that 'rblite harden' wrote: it holds its model's code. Of the folders
attacks/, defenses/ and reports/ where you stand, the code of what is asked for
by name is run. Scorecards, weights, suites and recipes are read, not run;
a suite or recipe names attacks or defenses, and their code is run. 'rblite
explain' runs the MODEL that a scorecard's command names.
"""


class _Group(click.Group):
    """Tells what went wrong in plain words; a traceback only where one is asked for."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException:
            processes.leave_it_to_the_first()
            raise
        except (click.exceptions.Exit, click.Abort):
            raise
        except UserError as fault:
            if ctx.params.get("debug") and (fault.__cause__ or fault.__context__):
                traceback.print_exc()  # of the user's code, too
            say(f"Error: {fault}")
            ctx.exit(EXIT_USAGE)
        except BrokenPipeError:  # whoever read our output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(EXIT_PIPE)
        except KeyboardInterrupt:
            say("Interrupted.")
            ctx.exit(signals.exit_code())
        except Exception as fault:
            if isinstance(fault, OSError) and fault.errno in NO_ROOM and not ctx.params.get("debug"):
                say(
                    f"Error: {fault.filename or 'the output'} can't be written: {fault.strerror}; make room, or choose "
                    "another place"
                )
                ctx.exit(EXIT_CRASH)
            if ctx.params.get("debug"):
                traceback.print_exc()
            else:
                say(f"Error: {type(fault).__name__}: {fault}\nRun 'rblite --debug ...' for the traceback.")
            ctx.exit(EXIT_CRASH)


@click.group(cls=_Group, help=_HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.version_option(robustbench_lite.__version__, prog_name="rblite")
@click.option("--debug", is_flag=True, help="Show the traceback of an error, in your code too.")
@click.pass_context
def main(context: click.Context, debug: bool) -> None:  # noqa: D103 - _HELP says it
    processes.check(context.invoked_subcommand)


_COMMANDS = (
    *(demo, evaluate, explain, doctor, calibrate, harden, federate, tune, auto),
    *(export, report, compare, attest),
    *(list_, init, cache, completion),
)
for _command in _COMMANDS:
    main.add_command(completed(_command))
