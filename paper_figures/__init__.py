"""Figures, one script each, drawn from result files only."""
