"""Faults on purpose: engines down, bad input, poison; nobody may notice more than promised."""
