"""Federated training with Flower: the clients' data stay with them, and their weights are put together.

A recipe's training step goes in, with how the data are shared out and by which strategy the weights are put together;
the one training loop runs at each client, and again at the server, which measures, keeps and resumes. ``step`` is what
a recipe names; ``server`` and ``client`` are the two apps of Flower, the same in ``simulation`` and ``deployment``.
``masking`` and ``secure`` are the two sides of secure aggregation.
"""
