"""The protocols of `jaxplain evaluate`, one file each."""
