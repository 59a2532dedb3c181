"""Steps that train a network, one file an algorithm."""
