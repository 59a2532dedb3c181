"""Attacks of other libraries, each behind one adapter, run and judged by our engine."""
