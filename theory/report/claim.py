"""One page: which part of the paper's robustness claim is true, under which assumptions, with the numbers."""

from typing import Any

from theory.report import real_claim

TEMPLATE = """# The robustness claim of arXiv:2510.00192, part by part

The paper argues that a rule that prunes by gradients is more robust, in loss, than one that prunes by activations.
Every number on this page comes from `statements.json` or `real_layers_*.json`; the proofs are the docstrings of the
modules named.

Throughout, an adapted layer computes W₀x + s·B·A·x; z = Ax is what passes through the bottleneck, g the gradient of
the loss with respect to the layer's output, C = E[xxᵀ] and D = E[ggᵀ] the second moments of the input and of that
gradient, and κ(D) the ratio of D's largest to its smallest eigenvalue on the space where removal acts. B_M, A_M are the
components that go, B_K, A_K those that stay. Q, K, V are an attention head's queries, keys and values before a change
of size at most ε, a hat marks them after it, and P is the attention matrix. M₃ bounds the third derivative of the loss
along the changes, ρ is the length of the longest of them, η the relative error of an estimated curvature.

## False

- **Proposition 2, activation side** (`{S4[module]}`). The bound takes a row-stochastic matrix to have norm 1; it
  has norm up to √N. The constructed counterexample (64 tokens) exceeds the printed bound by a factor
  {S4[extremal]}; the adversary, from random starts, by {S4[adversary]} (there the second slip counts too: the
  proof needs ‖Q̂‖, not ‖Q‖), the first violation after {S4[fell]} s. No constant repairs it.
- **Proposition 2, gradient side** (`{S6printed[module]}`). Small loss changes of single modules say nothing about
  the joint change: ratio {S6printed[extremal]} at the constructed counterexample (single changes 0), violated by
  {S6printed[violations]} instances in this run.
- **Absolute damping λI and removal in a given basis** (`{S3absolute[module]}`): the outcome depends on how the
  adapter happens to be factored ({S3absolute[violations]} and {S3basis[violations]} violations). Marquardt
  damping cures the scale of the components ({S3marquardt[violations]} violations), only truncation of BA cures
  the basis ({S3truncation[violations]}).
- **Recovery of both factors at once, equation (11)** (`{S13identity[module]}`): B moves as if A stayed and A as if B
  stayed, so the removed part is made up for twice. With E_B and E_A what either recovery alone would leave, X and Y the
  weights of the two recoveries and t the share of them that is made, the product changes by exactly
  t(E_B + E_A) + B_M((2t−1)I + t²XY)A_M: removal alone is t = 0, the printed form t = 1, the same error with the other
  sign or worse; half of each, t = ½, leaves a quarter of B_M XY A_M, and one factor alone leaves E_B or E_A. To first
  order in the loss E_B and E_A are what two regressions of gradients leave ({S13loss[violations]} violations of that
  bound in {S13loss[instances]} instances; measured / bound reaches {S13loss[adversary]}). That the printed recovery
  changes the product at most as much as leaving the components out is broken by {S13printed[violations]} instances.

## True

- **Activations** (`{S5bound[module]}`): ‖Z−Ẑ‖ ≤ (‖P‖₂ + (‖Q̂‖₂+‖K‖₂)‖V̂‖₂/(2√d))ε, for finite inputs, nothing
  else assumed. {S5bound[violations]} violations in {S5bound[instances]} instances. The ½ cannot be lowered: with two
  opposite keys and large values V̂, where the second term is all of the bound, the change is {S5bound[extremal]} times
  the bound.
- **Gradients** (`{S6path[module]}`): the errors add up along a path, each measured after the earlier changes.
  That is the triangle inequality, and a property of no rule.
- **What ignoring the loss can cost** (`{S7[module]}`): a factor κ(D), the condition of the output curvature where
  removal acts, and no more, under Kronecker-factored curvature at a stationary point. {S7[violations]} violations
  in {S7[instances]} instances; measured / bound reaches {S7[adversary]}. This is the true core of the paper's
  claim: *in the choice of components* a loss-aware rule can win by κ(D).
- **What seeing the loss wins on average** (`{S15[module]}`): let the two components that are cheapest by activations
  cost a₁ ≤ a₂, and let d_j, how much the loss minds where column j of B writes, be drawn independently. The
  loss-aware choice then loses at least E(a₁d − a₂d′)₊ less in expectation, exactly that of two components
  ({S15[violations]} violations in {S15[instances]} instances). It is strictly better if and only if the d differ by a
  larger factor than a₂/a₁; this is the positive form of the paper's claim.
- **What it cannot cost** (`{S8recovery[module]}`): for a given mask the best recovery is the same with and
  without the loss; D cancels ({S8recovery[violations]} violations in {S8recovery[instances]} instances).
- **But half of the paper's own curvature estimate need not see the loss**: with independent zero-mean output
  gradients, E[G_BᵀG_B] is the activation second moment up to a factor ({S8gram[violations]} violations in
  {S8gram[instances]} instances, {S8gram[outside]} of them outside the assumptions). B's half of the rule then *is* an
  activation-based one; what the rule knows of the loss sits in A's half, where E[G_AG_Aᵀ] = s²T·E‖x‖²·BᵀDB
  (`{S14[module]}`, {S14[violations]} violations in {S14[instances]} instances).
- **Guarantee for the rule** (`{S9remainder[module]}`): the exact second-order choice is within M₃ρ³/3 of the best
  loss (measured / bound reaches {S9remainder[adversary]}); an estimate with relative error η costs (1+η)/(1−η)
  (measured / bound reaches {S9estimate[adversary]}).
- **Noise on the weights** (`{S10general[module]}`): both rules are stable, each in its own unit, with the
  constant 2 ({S10general[violations]} violations; the adversary reaches {S10general[adversary]} of the bound, a
  constructed instance {S10general[extremal]}). For disjoint masks √2 is enough and cannot be lowered
  ({S10pair[violations]} violations, {S10pair[adversary]} reached); for masks that overlap 2 is the best constant.
  Turning the activation rule's guarantee into loss costs √κ(D) on the term that grows with the module: *there*
  the module's magnitude enters, as the paper says, and only there.
{core}
{real}
## Conclusion

The comparison the paper wants is S7, not Proposition 2: a loss-aware choice is better by at most κ(D), never worse in
the model, and equal where D is proportional to the identity. It needs a curvature that sees D; G_BᵀG_B need not, and
what is removed must be made up for once, not twice (S13)."""

CORE = """\
- **Best adapter of lower rank** (`{S11optimum[module]}`): truncation weighted by both second moments is the optimum
  under the same curvature as S7, over all adapters, not only over choices of components ({S11optimum[violations]}
  violations in {S11optimum[instances]} instances, against competitors that the adversary improves).
- **Exact Fisher in the core** (`{S12descent[module]}`): never worse in its objective than the Kronecker solution
  ({S12descent[violations]} violations in {S12descent[instances]} instances).
"""


def number(value: float | str) -> str:
    """Four significant digits; infinity as a word.

    >>> number(0.123456), number("inf"), number(1.3e9)
    ('0.1235', 'infinite', '1.300e+09')
    """
    value = float(value)
    if value == float("inf"):
        return "infinite"
    return f"{value:.3e}" if value and not 1e-3 <= abs(value) < 1e5 else f"{value:.4g}"


def facts(one: dict[str, Any]) -> dict[str, str]:
    """What the page says about one statement."""
    falls = [
        attack["seconds_to_fall"]
        for attack in one["adversary"]
        if attack["seconds_to_fall"] is not None
    ]
    best = max((float(attack["best_ratio"]) for attack in one["adversary"]), default=float("nan"))
    return {
        "module": one["module"],
        "instances": f"{one['instances']:,}",
        "violations": f"{one['violations']:,}",
        "outside": f"{max(one['assumption_failures'].values(), default=0):,}",
        "extremal": number(one["extremal_ratio"]) if one["extremal_ratio"] is not None else "none",
        "adversary": number(best),
        "fell": f"{min(falls):.2f}" if falls else "none",
    }


def page(statements: list[dict[str, Any]], real: dict[str, dict[str, Any]]) -> str:
    """The page, from the records of all statements and what was measured on real layers."""
    by_key = {one["key"].replace(".", ""): facts(one) for one in statements}
    core = CORE.format(**by_key) if "S11optimum" in by_key else ""
    return TEMPLATE.format(core=core, real=real_claim.section(real), **by_key)
