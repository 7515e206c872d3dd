"""Starts RLDG: launch files, configuration, launch runner, lifecycle manager and command line."""
