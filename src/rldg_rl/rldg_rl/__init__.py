"""Specialists: RLPD with human interventions, encoders, actor and learner, reward classifier (JAX, Flax, optax)."""
