"""Experiments: stages whose products feed each other, run, kept and drawn."""
