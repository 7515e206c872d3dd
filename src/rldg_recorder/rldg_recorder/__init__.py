"""Bags and training sets: recorder, audit, salvage, the episode reader, LeRobot v3 and RLDS writers, dataset algebra."""
