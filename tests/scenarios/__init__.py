"""Acceptance over HTTP: real HAProxy, real servers, real engines, real clients (PROMISES)."""
