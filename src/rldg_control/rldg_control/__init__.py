"""The observer, the arbiter, the episode manager and the operator's devices."""
