"""The documentation: pages in Markdown, and in `parts` what they hold that is made from code and result files."""
