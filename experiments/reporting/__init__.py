"""From results to what people read.

`table` (Table, Row, Cell), `writing` (Markdown, CSV, sentences), `seeds` (differences over seeds, and when they
are decided), `comparison` (paired differences over examples), `agreement` (somebody's numbers beside the committed
ones), `claims` (the paper's claims as data), `benchmarks` (all of them in one table), `goals` (what they are to reach
on a GPU), `page` (report.html), `forest` (its pictures of differences), `explore` (what the notebook of results
shows), `readme` (the verdicts in the README).
"""
