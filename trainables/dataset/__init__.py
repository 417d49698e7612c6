"""LeRobot datasets: read, checked, decoded once, cut into windows, and written.

``lerobot.open_dataset`` reads one, ``lerobot.preflight`` says what is wrong with it, ``frames.open_frames``
decodes its cameras, ``windows.Windows`` cuts it into training samples, ``write.DatasetWriter`` makes one.
"""
