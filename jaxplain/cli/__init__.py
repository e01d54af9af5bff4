"""The command line, one file per command."""

from jaxplain.cli.main import main

__all__ = ["main"]
