"""The batch engine: `jaxplain.explain_dataset`."""

from jaxplain.engine.run import explain_dataset

__all__ = ["explain_dataset"]
