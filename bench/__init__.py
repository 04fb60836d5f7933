"""Measure what a session costs the application server: added CPU, store commands, bytes.

``python -m bench`` compares the contestants of ``contestants.py`` and writes ``results.md``;
``python -m bench profile CONTESTANT WORKLOAD`` shows where the time goes.
"""
