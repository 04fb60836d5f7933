"""Faults on purpose: engines down, bad input, poisoned records; nobody may notice more than promised."""
