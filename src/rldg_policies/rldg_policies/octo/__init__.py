"""Octo 1.5 (Octo Model Team 2024, arXiv:2405.12213) in Flax: model, checkpoints, fine-tuning and serving."""
