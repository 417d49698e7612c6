"""What is killed, locked, filled up and cut off while sweeps run, and what became of them."""
