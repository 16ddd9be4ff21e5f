"""Jobs: one JSON configuration in, one JSON result out, each in a process of its own.

`run` (a training or a truncation), `reload` (plain PEFT opens what was exported), `one_shot` (every criterion, without
training after it), `refined` (training after it, without labels), `step_cost` and `peak_memory` (Table 2),
`pretrained` (Table 8); `record` (what every result holds besides its numbers).
"""
