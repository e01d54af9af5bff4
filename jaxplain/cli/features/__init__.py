"""The forms of `jaxplain pfv`, one file each."""
