"""From results to what people read.

`table` (Table, Row, Cell), `writing` (Markdown, CSV, sentences), `seeds` (differences over seeds, and when they
are decided), `comparison` (paired differences over examples), `claims` (the paper's claims as data),
`benchmarks` (all of them in one table), `page` (report.html), `readme` (the verdicts in the README).
"""
