"""Attacks of other libraries, each behind one adapter, run and checked by our engine."""
