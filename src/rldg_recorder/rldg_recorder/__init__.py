"""Bags and training sets: recorder, audit, salvage, the episode reader, training-set writers, dataset algebra."""
