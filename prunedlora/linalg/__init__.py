"""The mathematics: tensors in, tensors out, in float64 inside.

`elimination` (eliminate, block_solution), `truncation` (truncate), `weighted_truncation` (truncate_weighted),
`fisher_truncation` (truncate_core_fisher), `product_descent` (descend), `qr` (orthogonal), `curvature` (damped,
inverse, square_root), `numerics` (finite numbers, ties, conditions that are read together).
"""
