"""Rule sets: which rule acts on which operations, and what else a method asks of a network."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from jaxplain.core.operations import KINDS
from jaxplain.core.rules import Rule


class RuleSet:
    """An immutable table of backward rules, after zennit's composites.

    Args:
        rules: operation name (``"conv"``, ``"dense"``, ``"avg_pool"``, ``"relu"`` ...) or kind
            (``"linear"``, ``"activation"`` ...) -> rule. A name goes before a kind.
        overrides: address -> rule, before all else. An address is ``"first_linear"`` or
            ``"last_linear"``, which are all layers with weights that have none before or after
            them on some path, or a layer's name.
        requires: kinds that a rule must handle; one without a rule is an
            :class:`~jaxplain.core.UnsupportedOperationError` instead of a plain gradient.
        fold: whether linear layers see the batch norm after them folded into weight and bias. The
            rule ``"affine"`` then acts on scales and biases that fold into no layer, which it sees
            as one linear layer with a diagonal weight.
        needs: operation names (``"relu"``) of which a network must hold at least one: without any
            the rules would change nothing.
        times_input: whether the signals that the rules pass on are modified gradients, of which
            relevance is the value times the signal. `Model.pull_values`, and so every explainer,
            takes and gives relevance all the same; :func:`with_rules` gives the gradients.
        name: what the set is called, in messages and tables; no part of its value.

    A rule may have a method ``accepts(operation)``, asked when it is assigned: True, or the reason
    why it cannot act on the operation, as the end of a sentence that begins with the operation.
    Operations without a rule take the plain gradient.

    >>> from jaxplain import RuleSet, core
    >>> RuleSet({"activation": core.pass_rule}).lookup("activation", "relu") is core.pass_rule
    True
    """

    def __init__(
        self,
        rules: Mapping[str, Rule] = MappingProxyType({}),
        *,
        overrides: Mapping[str, Rule] = MappingProxyType({}),
        requires: tuple[str, ...] = (),
        fold: bool = True,
        needs: tuple[str, ...] = (),
        times_input: bool = False,
        name: str = "",
    ):
        self.name = name
        unknown = set(requires) - set(KINDS)
        if unknown:
            raise ValueError(f"unknown kinds in requires: {sorted(unknown)}; the kinds are {KINDS}")
        self._key = (
            tuple(sorted(dict(rules).items(), key=lambda kv: kv[0])),
            tuple(sorted(dict(overrides).items(), key=lambda kv: kv[0])),
            tuple(sorted(requires)),
            bool(fold),
            tuple(needs),
            bool(times_input),
        )

    @property
    def rules(self) -> dict[str, Rule]:
        return dict(self._key[0])

    @property
    def overrides(self) -> dict[str, Rule]:
        return dict(self._key[1])

    @property
    def requires(self) -> tuple[str, ...]:
        return self._key[2]

    @property
    def fold(self) -> bool:
        return self._key[3]

    @property
    def needs(self) -> tuple[str, ...]:
        return self._key[4]

    @property
    def times_input(self) -> bool:
        return self._key[5]

    def lookup(self, kind: str, name: str) -> Rule | None:
        """The rule for operations of this kind and name, None for the plain gradient."""
        rules = self.rules
        return rules.get(name, rules.get(kind))

    def replace(
        self,
        rules: Mapping[str, Rule] = MappingProxyType({}),
        *,
        overrides: Mapping[str, Rule] = MappingProxyType({}),
        fold: bool | None = None,
        name: str | None = None,
    ) -> RuleSet:
        """A copy with these entries added or changed."""
        return RuleSet(
            {**self.rules, **dict(rules)},
            overrides={**self.overrides, **dict(overrides)},
            requires=self.requires,
            fold=self.fold if fold is None else fold,
            needs=self.needs,
            times_input=self.times_input,
            name=self.name if name is None else name,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RuleSet) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"RuleSet({self.rules}, overrides={self.overrides}, requires={self.requires})"
