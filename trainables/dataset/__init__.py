"""LeRobot datasets: read, checked, decoded once, cut into windows, and written."""
