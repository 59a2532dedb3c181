"""Attacks that are broken by hand."""

CATALOGUE = {"wrong_sign": "wrong_sign:WrongSign"}
