"""Evaluation: plans, trials, statistics, the report."""
