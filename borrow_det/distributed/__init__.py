"""Devices, processes and preemption."""
