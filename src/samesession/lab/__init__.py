"""Run the real thing on this machine: servers, a balancer, engines."""
