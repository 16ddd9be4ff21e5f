"""What was found, for people: from ``statements.json`` and ``real_layers_*.json`` to pages and pictures.

`page` (the report), `claim` (which part of the paper's claim is true), `plots`; `explore` (the notebook's pictures);
`real_layers` (reads what was measured on real layers), `real_summary` (its numbers), `real_text`, `real_claim` and
`real_plots` (its section, its part of the claim, its pictures).
"""
