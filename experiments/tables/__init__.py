"""Which runs a table asks for, and what the paper prints there.

`studies` (the studies of a preset), `study` (Study, Gate), `tuning` (Tuning: the learning rate of every row), `labels`,
`rules` (the rules that prune, by their labels), `runs` (seeds and schedules).  With a language model: `math` (Tables 1
and 5, Figure 2), `language`, `code`, and `rows`, which they share.  On several tasks: `table3`.  On one task, one thing
varied in each: `table4`, `table6`, `table7`, `figure1`, `figure3`, `when_to_prune`, and `ablations`, which they share.
On tasks in which rank matters: `verdict`, `phase`,
`initial_rank` and `one_budget`.
Of jobs of their own: `table2`, `table8`, `one_shot`, `refined`.  For others: `peft_comparison`.
"""
