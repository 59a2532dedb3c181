"""Architectures that a file tells: a plain network and a cell network, whose choices a search can try."""
