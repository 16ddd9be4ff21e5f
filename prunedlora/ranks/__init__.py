"""The rank of every module, and what each module becomes at it.

`adapter` (reduce_adapter), `refinement` (refine_adapter), `targets` (by_rank, by_spectrum, by_parameters), `spectrum`
(rules that read a rank off singular values), `reduction` (Candidate, reduce_all), `budget` (allocate).
"""
