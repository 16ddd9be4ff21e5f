"""How a statement is checked: on random instances, on a constructed one, and by an adversary.

`registry` (Statement, register, get_statement), `result` (Result, compare, Summary), `instances` and `numerics` (what
statements are written in), `adversary` (attack), `runner` (verify).
"""
