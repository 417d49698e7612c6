"""Benchmarks: side by side in one run, with the hardware and the versions they ran on."""
