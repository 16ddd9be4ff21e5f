"""The rank of every module, and what each module becomes at it.

`adapter` (reduce_adapter), `targets` (by_rank, by_energy, by_parameters), `reduction` (Candidate, reduce_all), `budget`
(allocate).
"""
