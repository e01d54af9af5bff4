"""A benchmark that needs no download: `jaxplain benchmark`."""
