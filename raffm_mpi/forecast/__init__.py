"""What a run will need, before any allocation: memory, bytes and seconds, from labels, costs and one calibration."""
