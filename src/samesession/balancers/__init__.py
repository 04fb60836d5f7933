"""Configuration for load balancers, and the means to drive them."""
