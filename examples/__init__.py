"""Files that ship with jaxplain: the photograph of the command line's default run."""
