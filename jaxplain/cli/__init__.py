"""The command line, one file a command."""

from jaxplain.cli.main import main

__all__ = ["main"]
