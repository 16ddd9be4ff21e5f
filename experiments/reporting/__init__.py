"""From results to what people read.

`table` (Table, Row, Cell), `writing` (Markdown, CSV, sentences), `comparison` (paired differences), `page`
(report.html), `readme` (the committed tables in the README).
"""
