"""Discrete-event replicas that run core's policies on workloads and traces."""
