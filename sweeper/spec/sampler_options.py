"""The options of the search methods: names, ranges, defaults, and which exclude each other.

`SAMPLER_OPTIONS` is the only table of them. The space file is checked against it, the sampler is built from
it, and the documentation lists it. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.spec.space import Space
from sweeper.spec.sweep import Objective, SearchSpec
from trainables.interface import Fault, FieldInfo

__all__ = ["SAMPLER_OPTIONS", "SamplerOption", "complete_options", "option_clash", "option_faults"]


@dataclass(frozen=True)
class _Traits:
    """Properties of a search that defaults depend on."""

    single_objective: bool
    conditional: bool
    discrete: bool


@dataclass(frozen=True)
class SamplerOption:
    """An argument of Optuna's sampler that ``search.options`` may set.

    Attributes:
        info: Name, kind, range and meaning. ``info.default`` is the default if there is no ``rule``.
        rule: Chooses the default from the options that are known so far and from the search.
        default_words: The default in words if it is chosen by ``rule`` or by the sampler.
    """

    info: FieldInfo
    rule: Callable[[Mapping[str, Any], _Traits], bool] | None = None
    default_words: str = ""

    @property
    def name(self) -> str:
        """Optuna's name for the option."""
        return self.info.name

    def default(self, options: Mapping[str, Any], traits: _Traits) -> Any:
        """The default for a search, given the options that were set and those settled before this one."""
        return self.info.default if self.rule is None else self.rule(options, traits)


def _multivariate(options: Mapping[str, Any], traits: _Traits) -> bool:
    return traits.single_objective or options.get("group") is True


def _group(options: Mapping[str, Any], traits: _Traits) -> bool:
    return bool(options["multivariate"]) and traits.conditional


def _with_margin(options: Mapping[str, Any], traits: _Traits) -> bool:
    other_kind = options["use_separable_cma"] or options["lr_adapt"]
    return traits.discrete and not other_kind


SAMPLER_OPTIONS: Mapping[str, tuple[SamplerOption, ...]] = {
    "tpe": (
        SamplerOption(
            FieldInfo("n_ei_candidates", "int", 24, minimum=1, doc="candidates compared for each suggestion")
        ),
        SamplerOption(
            FieldInfo("multivariate", "bool", None, doc="model parameters together"),
            _multivariate,
            "`true` for one objective or with `group: true`",
        ),
        SamplerOption(
            FieldInfo("group", "bool", None, doc="model parameters that exist together as a group"),
            _group,
            "`true` if `multivariate` is `true` and a parameter has `when`",
        ),
        SamplerOption(FieldInfo("constant_liar", "bool", True, doc="take running trials into account")),
    ),
    "random": (),
    "grid": (),
    "cmaes": (
        SamplerOption(
            # The package cmaes divides by zero if a generation has only one parent.
            FieldInfo("popsize", "int", None, minimum=4, doc="trials per generation, at least 4"),
            default_words="4 + 3 ln(number of parameters)",
        ),
        SamplerOption(
            FieldInfo("use_separable_cma", "bool", False, doc="diagonal covariance, for many parameters")
        ),
        SamplerOption(
            FieldInfo("lr_adapt", "bool", False, doc="adapt the learning rate, for noisy objectives")
        ),
        SamplerOption(
            FieldInfo("with_margin", "bool", None, doc="keep integers from being stuck on one value"),
            _with_margin,
            "`true` for integers and steps, unless `use_separable_cma` or `lr_adapt` is `true`",
        ),
    ),
    "gp": (
        SamplerOption(
            FieldInfo(
                "deterministic_objective",
                "bool",
                False,
                doc="whether the same configuration gives the same result",
            )
        ),
    ),
}
"""The options of each method. The default of an option may depend on those listed before it."""

_EXCLUSIVE = ("use_separable_cma", "lr_adapt", "with_margin")
"""Options of CMA-ES of which at most one may be true."""


def complete_options(search: SearchSpec, space: Space, objectives: Sequence[Objective]) -> dict[str, Any]:
    """Every option of the sampler: those that ``search.options`` sets, and defaults for the others."""
    traits = _Traits(
        single_objective=len(objectives) == 1,
        conditional=any(parameter.when is not None for parameter in space.parameters),
        discrete=any(parameter.kind == "int" or parameter.step is not None for parameter in space.parameters),
    )
    options = dict(search.options)
    for option in SAMPLER_OPTIONS[search.method]:
        if option.name not in options:
            options[option.name] = option.default(options, traits)
    return options


def option_faults(search: SearchSpec) -> list[Fault]:
    """Find options that the method does not have, values that they cannot have, and options that clash."""
    known = {option.name: option.info for option in SAMPLER_OPTIONS[search.method]}
    faults = []
    for name, value in search.options.items():
        if name in known:
            faults += known[name].faults(value)
        else:
            allowed = f"Allowed: {', '.join(known)}." if known else f"{search.method} has no options."
            faults.append(Fault(name, f"is not an option of {search.method}.", allowed))
    clash = option_clash(search.options)
    return faults if clash is None else [*faults, clash]


def option_clash(options: Mapping[str, Any]) -> Fault | None:
    """Find options that are set and exclude each other; options that are left out adapt to those."""
    if options.get("group") is True and options.get("multivariate") is False:
        return Fault(
            "group", "is true, but multivariate is false.", "Set multivariate: true, or remove group."
        )
    clashing = [name for name in _EXCLUSIVE if options.get(name) is True]
    if len(clashing) > 1:
        problem = f"{' and '.join(clashing)} exclude each other."
        return Fault(clashing[-1], problem, "Set all but one to false.")
    return None
