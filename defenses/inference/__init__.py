"""Steps that wrap: what happens at inference."""
