"""How good a map is: scores as pure functions of arrays, and the papers' protocols.

Explainers come in only as arguments; nothing here knows a method.
"""
