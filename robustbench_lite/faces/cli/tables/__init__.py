"""What commands show on a terminal, as tables of at most 80 columns."""
