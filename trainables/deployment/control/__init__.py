"""From observations to actions at a control rate: histories, chunks, delays, and limits for the robot."""
