"""Every method of the catalogue on networks that others wrote: right, or refused, and nothing else.

``python -m benchmarks.third_party [--only NAME...] [--methods NAME...] [--output FILE.md]``, in an
environment that has Keras, Haiku, or what else of `networks.NETWORKS` is asked for.
"""
