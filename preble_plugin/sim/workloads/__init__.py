"""What a fleet is asked: workloads by name, each drawn by a seed."""

from preble_plugin.sim.workloads.registry import WORKLOADS, Workload, make, workload_names

__all__ = ["WORKLOADS", "Workload", "make", "workload_names"]
