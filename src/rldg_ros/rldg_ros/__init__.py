"""What every RLDG node shares: base node, quality of service, message conversion, tick grid, main loop."""
