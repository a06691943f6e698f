"""The parser of command lines that every program here uses."""

import argparse
import sys
from pathlib import Path

from mingpt.startup import REFUSED, complain, print_anything

MINUS = "\v-"  # of a negative number on the command line: white space to float() and int()


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with an option, and exits with code 2.

    A number may be negative, in exponent form too; a text or a file's name may look like one.
    Options are not abbreviated.
    """

    def __init__(self, prog, **settings):
        super().__init__(prog, allow_abbrev=False, **settings)
        for kind in (None, str):
            self.register("type", kind, _as_given)
        self.register("type", Path, lambda text: Path(_as_given(text)))

    def parse_known_args(self, args=None, namespace=None):
        print_anything()  # --help
        given = sys.argv[1:] if args is None else args
        return super().parse_known_args([_as_value(argument) for argument in given], namespace)

    def error(self, message):
        complain(self.prog.partition(" --study ")[0], _as_given(message))
        sys.exit(REFUSED)


def _as_value(argument):
    """The argument; a negative number so that argparse does not take it for an option."""
    try:
        float(argument)
    except ValueError:
        return argument
    return argument.replace("-", MINUS, 1) if argument.startswith("-") else argument


def _as_given(text):
    return text.replace(MINUS, "-").replace(repr(MINUS)[1:-1], "-")
